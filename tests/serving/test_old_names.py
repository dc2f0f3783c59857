"""Models registered before the packages were reordered import the serving code by its old names."""

import runpy
import warnings
from pathlib import Path

import numpy as np
import pandas
from dense_models import PHOTOGRAPH

import mae.registry.weights
import mae.served_answers
from mae.interchange import save_encoder
from mae.models.vit import build
from mae.serving import answers, model_file

# mae/served_model.py of commit 24a764a, unchanged: what models registered then carry.
OLD = Path(__file__).with_name("registered_served_model.py")


def test_the_old_names_are_the_same_objects() -> None:
    assert mae.registry.weights.load_model is model_file.load_model
    assert mae.registry.weights.kind_of is model_file.kind_of
    assert mae.served_answers.ANSWERS is answers.ANSWERS


def answer(code: Path, weights: Path) -> list[float]:
    """Embed the photograph with the served model of a file of code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow complains of its own type hints
        from mlflow.pyfunc import PythonModelContext

        model = runpy.run_path(str(code))["ServedModel"]()
    context = PythonModelContext({"weights": str(weights)}, {})
    model.load_context(context)
    return model.predict(context, pandas.DataFrame({"image": [PHOTOGRAPH]}))["embedding"][0]


def test_served_code_that_imports_the_old_names_gives_the_same_answers(tmp_path: Path) -> None:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    config = {"name": "vit_tiny_patch16_224", **sizes, "mean": [0.5] * 3, "std": [0.2] * 3}
    weights = tmp_path / "encoder.safetensors"
    save_encoder(weights, build(**sizes, name="vit_tiny_patch16_224").state_dict(), config)
    embedding = answer(OLD, weights)
    assert embedding == answer(Path(answers.__file__).parent / "served_model.py", weights)
    assert np.std(embedding) > 0
