"""Goldens of the dense tasks: detection, segmentation with both heads, pretrained and from scratch."""

from functools import partial

from golden.bench import Bench
from golden.frame import Case, Values, golden_test

# Images keep their size: to resize bytes, processors differ by a step of 1, which a few steps of training
# amplify. test_loading.py has the jitter.
AS_IT_IS = (
    "detect={image_size: 32, jitter_scale: [1.0, 1.0]}",
    "segment={crop: 32, short: 32, ratio: [1.0, 1.0]}",
)
RUNS: dict[str, tuple[str, tuple[str, ...], str, tuple[str, ...]]] = {
    "detect": ("detect", (), "detect", ()),
    "detect_with_smaller_patches": (
        "detect",
        (
            "detect={inits: [pretrained], patch_size: 4, window: 3, layer_decay: 0.8, flip: true}",
            "detect={drop_path: 0.1, accumulate: 2, max_objects: 1}",
        ),
        "detect",
        (),
    ),
    "upernet": ("segment", (), "segment.upernet", ("head.upernet",)),
    "dpt": (
        "segment",
        (
            "segment={head: dpt, inits: [scratch, pretrained], jitter: true, flip: true}",
            "segment={crop: 24, stride: 8, max_class_share: 0.75, auxiliary: 0.0, dropout: 0.1}",
        ),
        "segment.dpt",
        ("head.dpt",),
    ),
}
MODEL = {"detect": "detector", "segment": "segmenter"}


def trained(stage: str, settings: tuple[str, ...], bench: Bench) -> Values:
    """Figures on val, the curves of both trainings, the weights."""
    bench.begin_from("dense", *AS_IT_IS, *settings)
    bench.run(stage)
    table = f"reports/{stage}/curve.csv"
    names = [
        f"{init}{name}" for init in ("", "scratch_", "pretrained_") for name in ("loss", "lr", "grad_norm")
    ]
    columns = {f"curve.{name}": bench.column(table, name) for name in names}
    return {
        **bench.metrics(stage),
        **{name: values for name, values in columns.items() if values},
        **bench.lengths(f"models/{stage}/{MODEL[stage]}.safetensors"),
    }


def no_data(bench: Bench) -> Values:
    """Without data for the task the stages leave files that say so."""
    bench.begin_from("pretrained", "ingest_detect.source=none")
    bench.run("ingest_detect", "shard_detect", "detect")
    return {
        "metrics": sorted(bench.json("reports/detect/metrics.json")),
        "reports": sorted(path.name for path in (bench.folder / "reports/detect").iterdir()),
    }


CASES = [
    *(
        Case(name, (key,), partial(trained, stage, settings), covers)
        for name, (stage, settings, key, covers) in RUNS.items()
    ),
    Case("no_data", ("ingest_detect", "shard_detect", "detect"), no_data),
]

test_it_gives_the_kept_values = golden_test("dense", CASES)
