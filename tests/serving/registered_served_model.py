"""The model that MLflow serves: images in; embeddings, classes, objects or label maps out.

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

NAMED_ROWS = 20  # of the undecodable ones


class ServedModel(PythonModel):
    """An encoder, classifier, detector or segmenter: the `config` in the safetensors file says which.

    What each answers, a row per image, is said in `mae/served_answers.py`.
    """

    def load_context(self, context: Any) -> None:
        """Build the model of the artifact `weights`, on the GPU if there is one."""
        import torch

        from mae.registry.weights import kind_of, load_model
        from mae.served_answers import ANSWERS

        file = Path(context.artifacts["weights"])
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, config = load_model(file)
        model.to(device).eval()
        self.answers = ANSWERS[kind_of(config, file)](model, config, device, context.model_config or {})

    def predict(
        self, context: Any, model_input: pandas.DataFrame, params: dict[str, Any] | None = None
    ) -> pandas.DataFrame:
        """A DataFrame with the column `image` -> a DataFrame with one row per image, in order.

        Raises MlflowException (HTTP 400) naming every row that is no decodable image.
        """
        import torch

        with torch.inference_mode():
            rows = self.answers.rows(self._images(list(model_input["image"])))
        return pandas.DataFrame(rows, columns=list(self.answers.columns))

    def _images(self, values: list[Any]) -> list[Any]:
        """All rows decoded and scaled."""
        from mlflow.exceptions import MlflowException

        from mae.data.decode import UndecodableImage, decode

        images, wrong = [], []
        for row, value in enumerate(values):
            try:
                images.append(self.answers.scale(decode(as_bytes(value))))
            except (UndecodableImage, ValueError) as error:
                wrong.append(f"row {row}: {error}")
        if wrong:
            more = f" and {len(wrong) - NAMED_ROWS} more" if len(wrong) > NAMED_ROWS else ""
            what = f"{len(wrong)} of {len(values)} image(s) cannot be decoded; nothing was predicted. "
            raise MlflowException.invalid_parameter_value(what + "; ".join(wrong[:NAMED_ROWS]) + more)
        return images


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
