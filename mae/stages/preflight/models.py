"""The check of the models: each is built on torch's meta device, where it costs no memory and no draws."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from mae import config
from mae.config import Params
from mae.config.tokenizer import NEEDS
from mae.evaluation.classification.classifier import build_classifier
from mae.models import vit as encoders
from mae.models.detection.detector import build_detector
from mae.models.segmentation.segmenter import build_segmenter
from mae.models.tokenizer import build_tokenizer
from mae.stages import detect, segment
from mae.stages.pretrain import build_method, transform_of
from mae.stages.pretraining.fit_tokenizer import unfitted_config
from mae.stages.pretraining.initial_weights import read_initial_weights

CLASSES = 2  # enough to build a head


def unbuildable(params: Params) -> Iterator[str]:
    """Yield a fault for each model that cannot be built; for the encoder alone where that cannot."""
    given = params.encoder
    arguments = {"name": given.name, "img_size": given.img_size, **given.overrides}
    shown = "".join(f", encoder.{key} {value}" for key, value in given.overrides.items())
    named = f"encoder.name {given.name}, encoder.img_size {given.img_size}{shown}"
    if fault := _fault(named, _on_meta(encoders.build, **arguments)):
        yield fault
        return
    broken: set[str] = set()  # models that others are made of
    for part, name, build in _models(params, arguments):
        fault = None if part in broken else _fault(name, build)
        if fault:
            yield fault
            broken.add(part)


def _models(params: Params, arguments: dict[str, Any]) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Yield what can be built of the sections without a fault: a kind, the keys that choose it, a function.

    Where one cannot be built, later ones of its kind cannot either.
    """
    valid = {name for name in Params.model_fields if hasattr(params, name)} - config.at_odds(params)
    if "tokenizer" in valid and params.tokenizer.kind != "none":
        yield (
            "method",
            f"tokenizer.{_sizes(params)}",
            _on_meta(lambda: build_tokenizer(unfitted_config(params))),
        )
    if valid.issuperset({"seed", "tokenizer", "pretrain"}) and params.pretrain.method in valid:
        yield "method", f"pretrain.method {params.pretrain.method}", partial(_method, params)
        # Weights say the colours of their images, which `auto` does not yet.
        if params.pretrain.init is not None and not params.input.is_auto:
            yield (
                "method",
                f"pretrain.init {params.pretrain.init}",
                lambda: read_initial_weights(_method(params), params),
            )
    if "partial" in valid:
        blocks = max(params.partial.blocks)
        yield (
            "partial",
            f"partial.blocks {params.partial.blocks}",
            _on_meta(build_classifier, "partial", arguments, CLASSES, blocks=blocks),
        )
    if valid.issuperset({"detect", "ingest_detect"}) and params.ingest_detect.source != "none":
        settings = params.detect.model_dump(include=set(detect.BUILT))
        yield "detect", "detect", _on_meta(build_detector, arguments, CLASSES, **settings)
    if valid.issuperset({"segment", "ingest_segment"}) and params.ingest_segment.source != "none":
        settings = params.segment.model_dump(include=set(segment.BUILT))
        yield "segment", "segment", _on_meta(build_segmenter, arguments, CLASSES, **settings)


def _method(params: Params) -> Any:
    grey = params.input.model_copy(update={"mean": (0.5,) * 3, "std": (0.5,) * 3})  # no size depends on it
    params = params.model_copy(update={"input": grey})
    with torch.device("meta"):
        needed = params.pretrain.target in NEEDS
        method = build_method(params, build_tokenizer(unfitted_config(params)) if needed else None)
    transform_of(params, method)
    return method


def _on_meta(build: Callable[..., Any], *arguments: Any, **settings: Any) -> Callable[[], Any]:
    def built() -> Any:
        with torch.device("meta"):
            return build(*arguments, **settings)

    return built


def _sizes(params: Params) -> str:
    """Name the settings that decide the size of the tokenizer."""
    given = params.tokenizer
    key = {"fsq": "levels", "pca": "components"}.get(given.kind, "codes")
    return f"kind {given.kind}, tokenizer.{key} {getattr(given, key)}"


def _fault(name: str, build: Callable[[], Any]) -> str | None:
    try:
        build()
    except ValueError as error:
        return f"{name}: {error}"
    except Exception as error:  # torch and timm raise whatever the first layer that does not fit raises
        return f"{name}: cannot be built ({type(error).__name__}: {f'{error}'.splitlines()[0]:.200})"
    return None
