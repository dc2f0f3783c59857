"""Goldens of the stage `tokenizer`: every kind, and a pretraining that predicts what it makes."""

from functools import partial

from golden.bench import Bench
from golden.frame import Case, Values, golden_test
from golden.test_pretraining import measured

SMALL = "tokenizer={epochs: 2, batch_size: 20, warmup_epochs: 0.5}"
# Case: (kind, settings, method that predicts it, rows of tables).
RUNS: dict[str, tuple[str, tuple[str, ...], str, tuple[str, ...]]] = {
    "fsq": (
        "fsq",
        (
            "tokenizer={kind: fsq, levels: [5, 5], width: 8, accumulate: 2, flip: true}",
            "pretrain={target: tokens, mask: block, mask_ratio: 7}",
        ),
        "cae",
        ("target.tokens", "kind.fsq"),
    ),
    "kmeans_kept": (
        "kmeans",
        (
            "tokenizer={kind: kmeans, codes: 16, cache: true}",
            "pretrain={target: tokens, augment: none, flip: false}",
        ),
        "beit",
        ("kind.kmeans",),
    ),
    "palette": (
        "palette",
        ("tokenizer={kind: palette, codes: 16}", "pretrain={target: tokens}"),
        "igpt",
        ("kind.palette",),
    ),
    "pca": (
        "pca",
        ("tokenizer={kind: pca, components: 10}", "pretrain={target: pca}"),
        "mae",
        ("target.pca", "kind.pca"),
    ),
}


def fitted(settings: tuple[str, ...], method: str, bench: Bench) -> Values:
    """Figures, curve and weights of the tokenizer, then of the pretraining."""
    bench.begin_from("sharded", SMALL, f"pretrain.method={method}", *settings)
    bench.run("tokenizer", "pretrain")
    curve = "reports/tokenizer/curve.csv"
    columns = {name: bench.column(curve, name) for name in ("error", "lr", "grad_norm", "explained")}
    return {
        **bench.metrics("tokenizer"),
        **{f"curve.{name}": values for name, values in columns.items() if values},
        **bench.lengths("models/tokenizer/tokenizer.safetensors"),
        **{f"pretrain.{name}": value for name, value in measured(bench).items()},
    }


def nothing(bench: Bench) -> Values:
    """With kind none the stage leaves files that say so, and no tokenizer."""
    bench.begin_from("sharded", "tokenizer.kind=none")
    bench.run("tokenizer")
    left = sorted(path.name for path in (bench.folder / "models/tokenizer").iterdir())
    return {"left": left, "metrics": sorted(bench.json("reports/tokenizer/metrics.json"))}


CASES = [
    Case("none", ("tokenizer.none",), nothing),
    *(
        Case(name, (f"tokenizer.{kind}", f"pretrain.{method}"), partial(fitted, settings, method), covers)
        for name, (kind, settings, method, covers) in RUNS.items()
    ),
]

test_it_gives_the_kept_values = golden_test("tokenizers", CASES)
