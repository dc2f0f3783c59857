"""Goldens of the stage `pretrain`: every method, with targets, masks and augmentations spread over them."""

from functools import partial

from golden.bench import Bench
from golden.frame import TRAINED, Case, Values, golden_test

# Case: (method, settings of `pretrain` and of the method, rows of tables that it runs).
RUNS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "mae": ("mae", (), ("target.normalised_pixels", "mask.random", "augment.crop")),
    "mae_mask_tokens_in_the_encoder": (
        "mae",
        (
            "mae.mask_tokens=encoder",
            "pretrain={target: hog, mask: grid, mask_ratio: 0.5, augment: fixed_crop, flip: true}",
            "pretrain={ema: 0.9, accumulate: 2, clip_grad: 0.5, min_lr: 1.0e-4, betas: [0.8, 0.9]}",
        ),
        ("target.hog", "mask.grid", "augment.fixed_crop"),
    ),
    "cae": (
        "cae",
        ("pretrain={target: pixels, mask: block, mask_ratio: 7, drop_path: 0.2}", "encoder.init_values=0.1"),
        ("target.pixels", "mask.block"),
    ),
    "beit": (
        "beit",
        ("pretrain={target: mean_colour, mask: block, drop_path: 0.1}",),
        ("target.mean_colour",),
    ),
    "simmim": (
        "simmim",
        ("pretrain={target: pixels, mask: cells, mask_ratio: 0.5, augment: crop_jitter}",),
        ("mask.cells", "augment.crop_jitter"),
    ),
    "mpp": ("mpp", ("pretrain={target: mosaic, mask_ratio: 0.5}",), ("target.mosaic",)),
    "denoising": (
        "denoising",
        ("pretrain={target: pixels, mask_ratio: 0.5, augment: none}",),
        ("augment.none",),
    ),
    "mocov3": (
        "mocov3",
        ("pretrain={augment: two_views, crop_scale: [0.2, 1.0], flip: true}",),
        ("loss.mocov3", "augment.two_views"),
    ),
    "byol": ("mocov3", ("mocov3.loss=byol", "mocov3.freeze_patches=false"), ("loss.byol",)),
    "simclr": ("mocov3", ("mocov3.loss=simclr",), ("loss.simclr",)),
    "igpt": ("igpt", ("pretrain={target: mean_colour, probe: {layers: true}}",), ()),
    "ijepa": ("ijepa", ("pretrain={mask: multiblock}",), ("mask.multiblock",)),
    "supervised": ("supervised", (), ()),
    "supervised_by_the_mean": ("supervised", ("supervised.pool=avg", "supervised.smoothing=0.0"), ()),
}


def pretrained(method: str, settings: tuple[str, ...], bench: Bench) -> Values:
    """Losses, rates and gradients of each step, what was counted, and the lengths of the weights."""
    bench.begin_from("sharded", f"pretrain.method={method}", *settings)
    bench.run("pretrain")
    return measured(bench)


def measured(bench: Bench) -> Values:
    """Values of a finished pretraining."""
    columns = {name: bench.column("reports/pretrain/curve.csv", name) for name in ("loss", "lr", "grad_norm")}
    return {
        **bench.metrics("pretrain"),
        **{f"curve.{name}": values for name, values in columns.items() if values},
        **bench.lengths("models/pretrain/encoder.safetensors"),
        **bench.lengths("models/pretrain/method.safetensors"),
    }


def gone_on(bench: Bench) -> Values:
    """A pretraining that goes on from the weights of another one, at other rates."""
    bench.begin_from(
        "pretrained", "pretrain={init: start.safetensors, base_lr: 1.0e-3, epochs: 1, warmup_epochs: 0}"
    )
    (bench.folder / "models/pretrain/method.safetensors").rename(bench.folder / "start.safetensors")
    bench.run("pretrain")
    return measured(bench)


# Two views take a chain of roundings through jitter and blur, which processors do differently.
TOLERANCES = {"mocov3": 5e-3}
CASES = [
    Case("gone_on", ("pretrain.mae",), gone_on),
    *(
        Case(
            name,
            (f"pretrain.{method}",),
            partial(pretrained, method, settings),
            (f"method.{method}", *covers),
            TOLERANCES.get(name, TRAINED),
        )
        for name, (method, settings, covers) in RUNS.items()
    ),
]

test_it_gives_the_kept_values = golden_test("pretraining", CASES)
