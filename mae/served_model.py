"""The model that MLflow serves: images in, embeddings or classes out.

MLflow copies this file into the model ("models from code") with the whole `mae` package beside it, so that a
registered model goes on being served by the code that it was trained with. The image is decoded and scaled by
the same functions as in training. One column `image`: the bytes of a file (base64 text in JSON).

An image that cannot be decoded refuses the whole request with HTTP 400, naming every such row and its reason:
an answer then always has one row per image, in order, and no column that is sometimes empty.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

import pandas
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

TOP = 5
BATCH = 64
NAMED_ROWS = 20  # of the undecodable ones


class ServedModel(PythonModel):
    """An encoder or a classifier: the `config` in the safetensors file says which (`classes`: a classifier).

    Encoder: `embedding`, (embed_dim) floats per image: the mean of the normalised patch tokens, or the class
    token where the model config says `pool: token`. Classifier: `label`, `score` (softmax), and the best
    `labels` and `scores`, at most five.
    """

    def load_context(self, context: Any) -> None:
        """Build the ViT of the artifact `weights`, on the GPU if there is one."""
        import torch

        from mae.data.transforms import Normalize, evaluation
        from mae.registry.weights import load_model

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model, self.config = load_model(Path(context.artifacts["weights"]))
        self.model.to(self.device).eval()
        self.pool = (context.model_config or {}).get("pool", "avg")
        if self.config.get("in_chans") not in (None, 3):
            raise ValueError(f"an image file has 3 channels, this encoder takes {self.config['in_chans']}")
        size = self.config["img_size"]
        self.scale = evaluation(
            size if isinstance(size, int) else tuple(size), crop_pct=self.config.get("crop_pct")
        )
        self.normalize = Normalize(self.config["mean"], self.config["std"]).to(self.device)

    def predict(
        self, context: Any, model_input: pandas.DataFrame, params: dict[str, Any] | None = None
    ) -> pandas.DataFrame:
        """A DataFrame with the column `image` -> a DataFrame with one row per image, in order.

        Raises MlflowException (HTTP 400) naming every row that is no decodable image.
        """
        import torch

        images = self._images(list(model_input["image"]))
        rows: list[dict[str, Any]] = []
        with torch.inference_mode():
            for start in range(0, len(images), BATCH):
                batch = self.normalize(torch.stack(images[start : start + BATCH]).to(self.device))
                rows += self._classes(batch) if "classes" in self.config else self._embeddings(batch)
        columns = ["label", "score", "labels", "scores"] if "classes" in self.config else ["embedding"]
        return pandas.DataFrame(rows, columns=columns)

    def _images(self, values: list[Any]) -> list[Any]:
        """Scaled uint8 (3, H, W) tensors of all rows."""
        from mlflow.exceptions import MlflowException

        from mae.data.decode import UndecodableImage, decode

        images, wrong = [], []
        for row, value in enumerate(values):
            try:
                images.append(self.scale(decode(as_bytes(value))))
            except (UndecodableImage, ValueError) as error:
                wrong.append(f"row {row}: {error}")
        if wrong:
            more = f" and {len(wrong) - NAMED_ROWS} more" if len(wrong) > NAMED_ROWS else ""
            what = f"{len(wrong)} of {len(values)} image(s) cannot be decoded; nothing was predicted. "
            raise MlflowException.invalid_parameter_value(what + "; ".join(wrong[:NAMED_ROWS]) + more)
        return images

    def _embeddings(self, images: Any) -> list[dict[str, Any]]:
        tokens = self.model.forward_features(images)
        pooled = tokens[:, 0] if self.pool == "token" else tokens[:, 1:].mean(dim=1)
        return [{"embedding": row} for row in pooled.float().cpu().tolist()]

    def _classes(self, images: Any) -> list[dict[str, Any]]:
        classes = self.config["classes"]
        scores, indices = self.model(images).float().softmax(dim=1).topk(min(TOP, len(classes)))
        rows = []
        for best, which in zip(scores.cpu().tolist(), indices.cpu().tolist(), strict=True):
            labels = [classes[index] for index in which]
            rows.append({"label": labels[0], "score": best[0], "labels": labels, "scores": best})
        return rows


def as_bytes(value: Any) -> bytes:
    """The file's bytes; base64 text is decoded. ValueError where it is neither."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if not isinstance(value, str):
        raise ValueError(f"expected the bytes of an image file or base64 text, got {type(value).__name__}")
    try:
        return base64.b64decode(
            value.partition(",")[2] if value.startswith("data:") else value, validate=True
        )
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error


set_model(ServedModel())
