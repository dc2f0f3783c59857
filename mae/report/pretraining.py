"""The report's part on pretraining: by what method, on what, and how it went."""

from collections.abc import Iterator
from typing import Any

from mae.config import Params
from mae.report.text import of_split, percent

ONLY_BEFORE = (
    "In pretraining each token saw only itself and those before it. Every protocol lets the encoder see all "
    "of them; the probe on each block (`pretrain.probe.layers`) judges it as it was trained."
)


def pretraining_summary(params: Params, result: dict[str, Any]) -> str:
    """The first sentence of the report."""
    p = params.pretrain
    masked = (
        f", {result['masked']} of {result['patches']} patches masked ({p.mask})" if "masked" in result else ""
    )
    return (
        f"{p.method.upper()} pretraining of `{params.encoder.name}` ({result['parameters'] / 1e6:.2f} M "
        f"parameters in the encoder) on {result['samples']:,} images for {p.epochs} epochs{masked}."
    )


def pretraining_section(result: dict[str, Any]) -> Iterator[str]:
    """Curve, loss, pictures, and the probe on each block where there was one."""
    yield "## Pretraining"
    yield "![Pretraining curve](pretrain/curve.png)"
    yield f"Loss from {result['first_loss']:.4f} to {result['loss']:.4f} in {result['steps']:,} steps."
    layers = result.get("layers_top1")
    if layers:
        best = max(range(len(layers)), key=layers.__getitem__)
        yield (
            f"Linear probe on what each block leaves, as it was trained: best {percent(layers[best])} after "
            f"block {best + 1} of {len(layers)}; {percent(layers[-1])} after the last."
        )
    yield "![Original, masked, reconstruction](pretrain/reconstructions.png)"
    yield f"Images {of_split(result['pictures_split'], 'trained')}: {result['pictures_note']}."
