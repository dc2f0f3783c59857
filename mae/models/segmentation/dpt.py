"""DPT's decoder (Ranftl et al. 2021, arXiv 2103.13413) of segmentation_models_pytorch, on our encoder."""

from collections.abc import Sequence

from torch import Tensor, nn

from mae.models.patches import Pair

COARSEST = 32  # stride of its last map in pixels


class DPTHead(nn.Module):
    """Maps (N, D, h, w) and class tokens (N, 1, D) after four blocks -> logits (N, classes, h*P, w*P).

    `channels` 512 is the paper's width: levels of 256, 512, 1024 and 1024 channels, joined at 256. Only the
    library's decoder and head are taken: its whole `DPT` passes no `depth` on to timm and resamples positions
    by another rule than MAE's.
    """

    def __init__(
        self, width: int, patch: Pair, num_classes: int, channels: int = 512, dropout: float = 0.1
    ) -> None:
        super().__init__()
        # Imported here: it takes seconds, and only this head needs it.
        from segmentation_models_pytorch.base import initialization
        from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder, DPTSegmentationHead

        half = max(1, channels // 2)
        self.decoder = DPTDecoder(
            encoder_out_channels=[width] * 4,
            encoder_output_strides=[patch[0]] * 4,
            encoder_has_prefix_tokens=True,
            readout="cat",
            intermediate_channels=(half, channels, 2 * channels, 2 * channels),
            fusion_channels=half,
        )
        self.classify = DPTSegmentationHead(half, num_classes, upsampling=2)
        for module in self.classify.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
        initialization.initialize_decoder(self.decoder)
        initialization.initialize_head(self.classify)

    @staticmethod
    def multiple(patch: Pair) -> Pair:
        """Return the number of pixels that an image's sides are padded to a multiple of, as the levels need.

        Raises ValueError for a patch that is not square and a power of two up to 32 pixels.
        """
        if patch[0] != patch[1] or patch[0] not in (1, 2, 4, 8, 16, 32):
            raise ValueError(
                f"dpt needs square patches of 1, 2, 4, 8, 16 or 32 pixels, not {patch}: choose head upernet"
            )
        return COARSEST, COARSEST

    def forward(self, maps: Sequence[Tensor], class_tokens: Sequence[Tensor]) -> Tensor:
        return self.classify(self.decoder(list(maps), list(class_tokens)))
