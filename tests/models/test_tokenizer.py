"""Facts about tokenizers: a code for every patch, and back."""

import pytest
import torch
from torch.testing import assert_close

from mae.engine.optim import sgd
from mae.models.patches import normalise, patchify, unpatchify
from mae.models.tokenizer import FSQTokenizer, KMeans, Palette, build_tokenizer

GRID, PATCH = (3, 2), (4, 4)


def images(count=4, **options):
    return torch.randn(count, 3, 12, 8, generator=torch.Generator().manual_seed(0), **options)


@pytest.fixture
def fsq():
    torch.manual_seed(0)
    return FSQTokenizer(GRID, PATCH, levels=(8, 8, 8, 16), width=8, depth=1)


def kmeans(codes=8, **options):
    made = KMeans(GRID, PATCH, codes=codes, **options)
    made.start(made.vectors(images(16)).flatten(0, 1), seed=0)
    return made


def test_8_8_8_16_levels_are_8192_codes(fsq):
    assert fsq.num_codes == 8192


def test_the_fsq_tokenizer_of_a_vit_base_sees_112_pixels_and_has_the_patches_grid():
    tokenizer = FSQTokenizer((14, 14), (16, 16)).to("meta")
    seen = tokenizer.view(torch.zeros(1, 3, 224, 224, device="meta"))
    assert tokenizer.encoder(seen).shape == (1, 4, 14, 14)
    assert seen.shape == (1, 3, 112, 112)


def test_every_patch_has_one_code_and_comes_back_as_pixels(fsq):
    for tokenizer in (fsq, kmeans()):
        codes = tokenizer.encode(images())
        assert codes.shape == (4, 6)
        assert codes.dtype == torch.int64
        assert 0 <= codes.min() <= codes.max() < tokenizer.num_codes
        assert tokenizer.decode(codes, patchify(images(), PATCH)).shape == (4, 6, 48)


def test_every_fsq_code_has_its_own_point_and_is_found_again(fsq):
    every = torch.arange(fsq.num_codes)
    points = fsq.quantise.implicit_codebook
    assert len(points.unique(dim=0)) == fsq.num_codes
    assert_close(fsq.quantise.codes_to_indices(points).long(), every)


def test_what_the_encoder_says_is_what_the_decoder_gets(fsq):
    seen = fsq.view(images())
    through = fsq.decoder(fsq.quantise(fsq.encoder(seen))[0])
    sides = (GRID[0] * PATCH[0], GRID[1] * PATCH[1])
    shrunk = torch.nn.functional.interpolate(through, sides, mode="bicubic", antialias=True)
    assert_close(fsq.decode(fsq.encode(images()), patchify(images(), PATCH)), patchify(shrunk, PATCH))


def test_fsq_learns_to_rebuild_a_batch(fsq):
    optimizer = torch.optim.AdamW(fsq.parameters(), lr=3e-3)
    errors = []
    for _ in range(60):
        loss = fsq(images())["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(loss.item())
    assert errors[-1] < 0.5 * errors[0]
    assert all(p.grad.abs().max() > 0 for p in fsq.parameters())


def test_a_step_of_rate_1_is_a_step_of_lloyd():
    tokenizer = kmeans()
    vectors = tokenizer.vectors(images()).flatten(0, 1)
    before = tokenizer.centres.detach().clone()
    nearest = torch.cdist(vectors, before).argmin(1)
    optimizer = sgd(tokenizer, lr=1.0, momentum=0.0)
    tokenizer(images())["loss"].backward()
    optimizer.step()
    for code, centre in enumerate(tokenizer.centres.detach()):
        own = vectors[nearest == code]
        assert_close(centre, own.mean(0) if len(own) else before[code])


def test_lloyds_steps_lower_the_error():
    tokenizer = kmeans()
    optimizer = sgd(tokenizer, lr=1.0, momentum=0.0)
    errors = []
    for _ in range(10):
        parts = tokenizer(images(32))
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
        errors.append(parts["error"].item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]


def test_a_centre_is_its_own_code_and_patches_keep_their_brightness_and_contrast():
    tokenizer = kmeans()
    patches = patchify(images(), PATCH)
    codes = tokenizer.encode(images())
    assert_close(normalise(tokenizer.decode(codes, patches)), tokenizer.centres[codes], rtol=0.1, atol=0.1)
    brighter = tokenizer.encode(3 * images() + 5)
    assert (brighter == codes).float().mean() > 0.95


def test_a_palette_is_the_nearest_colour_of_every_pixel_or_of_a_patchs_mean():
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    for grid, patch in (((12, 8), (1, 1)), (GRID, PATCH)):
        palette = Palette(grid, patch, codes=3)
        with torch.no_grad():
            palette.centres.copy_(colours)
        wanted = torch.randint(3, (2, grid[0] * grid[1]))
        patches = colours[wanted].repeat(1, 1, patch[0] * patch[1])
        found = palette.encode(unpatchify(patches, patch, grid) + 0.1 * images(2))
        assert_close(found, wanted)
        assert_close(palette.decode(wanted, patches), patches)


def test_the_same_seed_starts_from_the_same_centres_and_they_are_vectors_of_the_data():
    assert_close(kmeans().centres, kmeans().centres, rtol=0, atol=0)
    tokenizer = kmeans()
    distances = torch.cdist(tokenizer.centres, tokenizer.vectors(images(16)).flatten(0, 1))
    assert_close(distances.min(1).values, torch.zeros(8), rtol=0, atol=1e-2)


def test_more_codes_than_vectors_are_refused():
    with pytest.raises(ValueError, match=r"96 vectors are too few for 97 codes: lower tokenizer\.codes"):
        kmeans(codes=97)


@pytest.mark.parametrize(
    ("options", "message"), [({"levels": (8, 2)}, "at least 3"), ({"width": 12}, "multiple of 8")]
)
def test_settings_of_no_tokenizer_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        FSQTokenizer(GRID, PATCH, **options)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("fsq", {"levels": [5, 5], "width": 8, "depth": 1}),
        ("kmeans", {"codes": 7}),
        ("palette", {"codes": 7}),
        ("pca", {"components": 9}),
    ],
)
def test_every_kind_is_built_of_its_config_and_rebuilds_images(kind, settings):
    config = {"kind": kind, "grid": [3, 2], "patch_size": [4, 4], "channels": 3, "settings": settings}
    made = build_tokenizer(config)
    assert made.round_trip(images()).shape == (4, 6, 48)
    assert made(images())["error"].ndim == 0
    with pytest.raises(ValueError, match=r"the tokenizer.s settings .* are unusable"):
        build_tokenizer(config | {"settings": {"size": 3}})
