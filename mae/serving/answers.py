"""The answers of served models: embeddings, classes, objects, label maps. No MLflow.

Each kind is built from (model in evaluation mode, its config, device, the MLflow model config). It has
`columns`, the names in an answer; `scale`, from a decoded uint8 (3, H, W) to an input of `rows`; and `rows`,
from a list of inputs to one dict per image. Pixels are those of the upright image.
"""

from __future__ import annotations

import abc
import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from mae.data.transforms.image import Normalize, Transform, evaluation

TOP = 5
BATCH = 64


def scaling(config: Mapping[str, Any]) -> Transform:
    """Build the transform that scales and crops a decoded image for an encoder or classifier."""
    size = config["img_size"]
    return evaluation(size if isinstance(size, int) else tuple(size), crop_pct=config.get("crop_pct"))


def pooled(tokens: torch.Tensor, pool: str) -> torch.Tensor:
    """Pool tokens (N, 1+L, D), class token first, to embeddings (N, D): "token" or the mean of the others."""
    return tokens[:, 0] if pool == "token" else tokens[:, 1:].mean(dim=1)


class _Pooled:
    """The shared part of encoders and classifiers: square images in batches."""

    def __init__(
        self, model: Any, config: Mapping[str, Any], device: torch.device, settings: Mapping[str, Any]
    ) -> None:
        if config.get("in_chans") not in (None, 3):
            raise ValueError(
                f"an image file has 3 channels, but the model's config has in_chans {config['in_chans']}"
            )
        self.model, self.device = model, device
        self.scale = scaling(config)
        self.normalize = Normalize(config["mean"], config["std"]).to(device)
        self.classes: list[str] = config.get("classes", [])
        self.pool = settings.get("pool", "avg")

    def _batches(self, scaled: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        for start in range(0, len(scaled), BATCH):
            yield self.normalize(torch.stack(list(scaled[start : start + BATCH])).to(self.device))


class Embeddings(_Pooled):
    """Answers of an encoder.

    `embedding`: (embed_dim) floats, the mean of the normalised patch tokens, or the class token where the
    model config says `pool: token`.
    """

    columns = ("embedding",)

    def rows(self, scaled: Sequence[torch.Tensor]) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = []
        for images in self._batches(scaled):
            embeddings = pooled(self.model.forward_features(images), self.pool)
            answers += [{"embedding": row} for row in embeddings.float().cpu().tolist()]
        return answers


class Classes(_Pooled):
    """Answers of a classifier: `label`, `score` (softmax), and the best five `labels` and `scores`."""

    columns = ("label", "score", "labels", "scores")

    def rows(self, scaled: Sequence[torch.Tensor]) -> list[dict[str, Any]]:
        answers = []
        for images in self._batches(scaled):
            best, ids = self.model(images).float().softmax(dim=1).topk(min(TOP, len(self.classes)))
            for scores, indices in zip(best.cpu().tolist(), ids.cpu().tolist(), strict=True):
                labels = [self.classes[index] for index in indices]
                answers.append({"label": labels[0], "score": scores[0], "labels": labels, "scores": scores})
        return answers


class _Dense(abc.ABC):
    """The shared part of detectors and segmenters: images one by one, because their answers are large."""

    def __init__(
        self, model: Any, config: Mapping[str, Any], device: torch.device, settings: Mapping[str, Any]
    ) -> None:
        self.model, self.device = model, device
        self.names = [category["name"] for category in config["categories"]]
        self.normalize = Normalize(config["mean"], config["std"]).to(device)
        self.transform = self._evaluation(config)

    @abc.abstractmethod
    def _evaluation(self, config: Mapping[str, Any]) -> Any:
        """Build the transform that scales a decoded image, the one of the evaluation."""

    def scale(self, image: torch.Tensor) -> Any:
        """Scale a decoded image: (image, its sizes)."""
        return self.transform(image, None)

    def rows(self, scaled: Sequence[Any]) -> list[dict[str, Any]]:
        return [self._row(self.normalize(image[None].to(self.device)), sizes) for image, sizes in scaled]

    @abc.abstractmethod
    def _row(self, images: torch.Tensor, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """Answer for one normalised image (1, C, h, w)."""


class Objects(_Dense):
    """Answers of a detector.

    `boxes` ([x1, y1, x2, y2] in pixels), `labels` (category names), `scores` (0 to 1) and `masks` (COCO
    run-length encodings as JSON text) of the detected objects.
    """

    columns = ("boxes", "labels", "scores", "masks")

    def _evaluation(self, config: Mapping[str, Any]) -> Any:
        from mae.data.transforms.detection import detection_evaluation

        return detection_evaluation(config["image_size"])

    def _row(self, images: torch.Tensor, sizes: Mapping[str, Any]) -> dict[str, Any]:
        (objects,) = self.model.detect(images, [sizes])
        return {
            "boxes": objects["boxes"].float().cpu().tolist(),
            "labels": [self.names[index] for index in objects["labels"].tolist()],
            "scores": objects["scores"].float().cpu().tolist(),
            "masks": [json.dumps(mask, sort_keys=True) for mask in objects["masks"]],
        }


class LabelMaps(_Dense):
    """Answers of a segmenter.

    `label_map`: base64 text of a PNG of the image's size, the category index of every pixel; `classes`: the
    categories' names by index; `width` and `height` in pixels.
    """

    columns = ("label_map", "classes", "width", "height")

    def _evaluation(self, config: Mapping[str, Any]) -> Any:
        from mae.data.transforms.segmentation import segmentation_evaluation

        return segmentation_evaluation(config["short"])

    def _row(self, images: torch.Tensor, sizes: Mapping[str, Any]) -> dict[str, Any]:
        height, width = sizes["size"]
        indices = self.model.segment(images, (height, width))
        return {"label_map": _png(indices), "classes": self.names, "width": width, "height": height}


def _png(indices: torch.Tensor) -> str:
    """Encode (H, W) category indices up to 254 as the base64 text of an 8-bit grey PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(indices.to("cpu", torch.uint8).numpy()).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


ANSWERS: dict[str, Any] = {
    "encoder": Embeddings,
    "classifier": Classes,
    "detector": Objects,
    "segmenter": LabelMaps,
}
