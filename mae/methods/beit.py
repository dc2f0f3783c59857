"""BEiT (Bao et al., arXiv 2106.08254): mask tokens in the encoder, visual tokens as the target."""

from mae.methods.corrupted import CorruptedMethod


class BEiT(CorruptedMethod):
    """Masks are blocks, the target is the tokenizer's code of each masked patch, by cross-entropy.

    The encoder is a plain ViT with absolute positions, without the release's shared relative position bias;
    codes are those of the stage `tokenizer`, not DALL-E's.
    """

    paper_mask = ("block", 0.38)  # 75 of 196 patches
    paper_target = "tokens"
