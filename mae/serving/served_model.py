"""The model that MLflow serves: images in; embeddings, classes, objects or label maps out.

MLflow copies this file into the model ("models from code") together with the whole `mae` package, so that the
code that trained a registered model also serves it. The functions of training decode and scale the image. A
request has one column `image`: the bytes of a file (base64 text in JSON).

An image that cannot be decoded refuses the whole request with HTTP 400, naming every such row and its reason.
So an answer always has one row per image, in order, and no column that is sometimes empty.
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
    """An encoder, classifier, detector or segmenter, by the `config` in its safetensors file.

    `mae/serving/answers.py` describes the answers of each.
    """

    def load_context(self, context: Any) -> None:
        """Build the model of the artifact `weights`, on the GPU if there is one."""
        import torch

        from mae.serving.answers import ANSWERS
        from mae.serving.model_file import kind_of, load_model

        file = Path(context.artifacts["weights"])
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, config = load_model(file)
        model.to(device).eval()
        self.answers = ANSWERS[kind_of(config, file)](model, config, device, context.model_config or {})

    def predict(
        self, context: Any, model_input: pandas.DataFrame, params: dict[str, Any] | None = None
    ) -> pandas.DataFrame:
        """Answer a DataFrame with the column `image` by a DataFrame with one row per image, in order.

        Raises MlflowException (HTTP 400) naming every row that is no decodable image.
        """
        import torch

        with torch.inference_mode():
            rows = self.answers.rows(self._images(list(model_input["image"])))
        return pandas.DataFrame(rows, columns=list(self.answers.columns))

    def _images(self, values: list[Any]) -> list[Any]:
        """Decode and scale all rows."""
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
    """Give the bytes of a file, decoded where they are base64 text. ValueError where it is neither."""
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
