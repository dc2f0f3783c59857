"""The probe at every layer reads the tokens of each block, causal where the encoder is."""

import torch
from torch.testing import assert_close

from mae.evaluation.representation.layers import top1_by_layer
from mae.models.vit import build, encode, tokens_after


def small():
    torch.manual_seed(0)
    return build("vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=32, depth=3, num_heads=4)


def two_classes(count):
    """Give bright and dark images: any layer separates them."""
    labels = torch.arange(count) % 2
    images = 0.1 * torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(count))
    images += 0.8 * labels[:, None, None, None]
    yield {"images": images, "labels": labels, "rows": torch.arange(count), "skipped": 0}


def test_a_block_s_tokens_are_those_on_the_way_to_the_last():
    vit, images = small().eval(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert_close(vit.norm(tokens_after(vit, images, 2)), encode(vit, images))
        assert_close(vit.blocks[1](tokens_after(vit, images, 0)), tokens_after(vit, images, 1))
        causal = tokens_after(vit, images, 2, causal=True)
        images[:, :, -4:, -4:] += 1
        assert_close(tokens_after(vit, images, 2, causal=True)[:, :-1], causal[:, :-1])
        assert (tokens_after(vit, images, 2)[:, 1] - causal[:, 1]).abs().max() > 1e-4


def test_every_block_is_probed_and_labels_that_say_nothing_are_not_learnt():
    vit = small()
    found = top1_by_layer(vit, lambda: two_classes(40), lambda: two_classes(20), normalize=lambda x: x)
    assert found == [1.0, 1.0, 1.0]
    assert vit.training

    def shuffled():
        for batch in two_classes(20):
            yield {**batch, "labels": batch["labels"][torch.randperm(20)]}

    torch.manual_seed(0)
    assert max(top1_by_layer(vit, lambda: two_classes(40), shuffled, normalize=lambda x: x)) < 1
