"""SimMIM (Xie et al., arXiv 2111.09886): mask tokens in the encoder, pixels by a linear layer."""

from torch import Tensor

from mae.methods.corrupted import CorruptedMethod


class SimMIM(CorruptedMethod):
    """Masks are cells of 2 x 2 patches, the target is pixels, by their absolute difference.

    On a plain ViT: the release's Swin, and its ViT's relative positions, are not there. Targets that are
    classes keep their own loss.
    """

    paper_mask = ("cells", 0.6)
    paper_target = "pixels"

    def loss(self, predicted: Tensor, target: Tensor) -> Tensor:
        if self.target.classes is not None:
            return super().loss(predicted, target)
        return (predicted.to(target.dtype) - target).abs().mean()
