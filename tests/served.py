"""The answers of a served encoder, without a server."""

import warnings
from pathlib import Path

import pandas
import torch


def served(file: Path, images: list[bytes], pool: str = "avg") -> torch.Tensor:
    """Embeddings as the served model answers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's, of its own type hints
        from mlflow.pyfunc import PythonModelContext

        from mae.serving.served_model import ServedModel

        context = PythonModelContext({"weights": str(file)}, {"pool": pool})
        model = ServedModel()
    model.load_context(context)
    answer = model.predict(context, pandas.DataFrame({"image": images}))
    return torch.tensor(answer["embedding"].tolist())
