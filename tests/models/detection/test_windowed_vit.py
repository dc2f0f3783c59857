"""A plain ViT at detection's resolution: its attention is exact, its windows are closed, any size enters."""

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from mae.models.detection.windowed_vit import RelativePositions, WindowedViT, attend, partition, unpartition
from mae.models.vit import build, resize_positions


def tiny(grid=(6, 6), window=3, global_blocks=(1,), **settings):
    torch.manual_seed(0)
    settings = {"img_size": 24, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2} | settings
    vit = build("vit_tiny_patch16_224", **settings)
    return WindowedViT(vit, grid=grid, window=window, global_blocks=global_blocks)


def plain_attention(attention, tokens, rows, columns):
    """The formula as it is written, with the whole matrix; rows (H, H, c) and columns (W, W, c)."""
    n, height, width, _ = tokens.shape
    qkv = attention.qkv(tokens).reshape(n, height * width, 3, attention.num_heads, -1)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    logits = attention.scale * query @ key.transpose(-2, -1)
    for q in range(height * width):
        for k in range(height * width):
            bias = rows[q // width, k // width] + columns[q % width, k % width]
            logits[:, :, q, k] = logits[:, :, q, k] + query[:, :, q] @ bias
    mixed = (logits.softmax(-1) @ value).transpose(1, 2).reshape(tokens.shape)
    return attention.proj(mixed)


@pytest.mark.parametrize("grid", [(4, 3), (1, 5)])
def test_attention_with_relative_positions_is_the_plain_formula(grid):
    attention = tiny().double().encoder.blocks[0].attn
    relative = RelativePositions(grid, 16).double()
    torch.nn.init.normal_(relative.rows)
    torch.nn.init.normal_(relative.columns)
    rows = torch.stack([relative.rows[q - torch.arange(grid[0]) + grid[0] - 1] for q in range(grid[0])])
    columns = torch.stack([relative.columns[q - torch.arange(grid[1]) + grid[1] - 1] for q in range(grid[1])])
    tokens = torch.randn(2, *grid, 32, dtype=torch.float64)
    ours, plain = attend(attention, tokens, relative), plain_attention(attention, tokens, rows, columns)
    assert_close(ours, plain)
    inputs = [relative.rows, relative.columns, attention.qkv.weight]
    seed = torch.randn_like(plain)
    for grad, wanted in zip(
        torch.autograd.grad(ours, inputs, seed), torch.autograd.grad(plain, inputs, seed), strict=True
    ):
        assert_close(grad, wanted)


class Largest(TorchDispatchMode):
    """The most elements that any result of an operation had."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        for result in results if isinstance(results, tuple | list) else [results]:
            if isinstance(result, torch.Tensor):
                self.elements = max(self.elements, result.numel())
        return results


def test_the_matrix_of_all_pairs_is_never_built():
    grid = (40, 40)
    model = tiny(grid=grid, window=40)
    tokens = torch.randn(1, *grid, 32)
    with Largest() as largest:
        attend(model.encoder.blocks[0].attn, tokens, model.relative[0]).sum().backward()
    assert largest.elements < (40 * 40) ** 2 / 4


def test_tables_start_at_zero_and_are_resized_linearly_to_another_grid():
    relative = RelativePositions((3, 3), 4)
    assert not any(table.any() for table in relative.parameters())
    with torch.no_grad():
        relative.rows.copy_(torch.arange(-2.0, 3.0)[:, None].expand(-1, 4))
    rows, columns = relative((3, 5))
    assert_close(rows[..., 0], torch.tensor([[0.0, -1, -2], [1, 0, -1], [2, 1, 0]]))
    assert columns.shape == (5, 5, 4)
    larger = relative((6, 6))[0][..., 0]
    assert_close(larger.diagonal(), torch.zeros(6))
    assert_close(larger, -larger.T)


def test_without_windows_and_with_zero_tables_the_blocks_are_timms():
    model = tiny(global_blocks=(0, 1)).double().eval()
    images = torch.randn(2, 3, 24, 24, dtype=torch.float64)
    vit = model.encoder
    tokens = vit.blocks(vit.patch_embed(images) + vit.pos_embed[:, 1:])
    assert_close(model(images), tokens.transpose(1, 2).unflatten(2, (6, 6)))


@pytest.mark.parametrize("grid", [(6, 6), (7, 5), (1, 9), (2, 2)])
def test_windows_are_put_together_as_they_were_cut(grid):
    tokens = torch.randn(2, *grid, 3)
    windows = partition(tokens, 3)
    assert windows.shape == (2 * -(-grid[0] // 3) * -(-grid[1] // 3), 3, 3, 3)
    assert_close(windows[0, : min(3, grid[0]), : min(3, grid[1])], tokens[0, :3, :3])
    assert_close(unpartition(windows, grid), tokens)


def test_a_window_sees_nothing_of_another_until_a_global_block():
    images = torch.randn(1, 3, 24, 24)
    changed = images.clone()
    changed[..., 12:] += 1
    windowed = tiny(global_blocks=()).eval()
    assert_close(windowed(images)[..., :3], windowed(changed)[..., :3])
    mixed = tiny(global_blocks=(1,)).eval()
    assert not torch.allclose(mixed(images)[..., :3], mixed(changed)[..., :3])


@pytest.mark.parametrize("size", [(24, 24), (25, 50), (1, 37), (3, 3)])
def test_an_image_of_any_size_gives_a_map_of_its_patches_and_gradients_everywhere(size):
    model = tiny(drop_path=0.1)
    features = model(torch.randn(2, 3, *size))
    assert features.shape == (2, 32, -(-size[0] // 4), -(-size[1] // 4))
    features.square().sum().backward()
    missing = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert missing == []
    assert not model.encoder.cls_token.requires_grad


def test_positions_follow_the_grid_bicubically():
    model = tiny().eval()
    model.encoder.blocks = torch.nn.ModuleList()
    model.relative = torch.nn.ModuleList()
    images = torch.zeros(1, 3, 40, 16)
    table = resize_positions({"pos_embed": model.encoder.pos_embed}, (6, 6), (10, 4))["pos_embed"][:, 1:]
    wanted = table.transpose(1, 2).unflatten(2, (10, 4)) + model.encoder.patch_embed.proj.bias[:, None, None]
    assert_close(model(images), wanted)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"global_blocks": (2, 5)}, r"global_blocks \[2, 5\]: the encoder's blocks are 0 to 1"),
        ({"window": 0}, "window must be at least 1 patch"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny(**settings)
