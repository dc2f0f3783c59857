"""The stage `tokenizer`: fit the tokens, components or palette of pretraining's target; most need none."""

import json
import shutil

from mae.config import Params
from mae.config.paths import REPORTS, TOKENIZER
from mae.files import write_csv, write_text

NONE = "params.yaml asks for none (tokenizer.kind: none)"


def tokenizer(params: Params) -> None:
    """Write models/tokenizer and reports/tokenizer: the fitted tokenizer, or a note that there is none."""
    shutil.rmtree(TOKENIZER.parent, ignore_errors=True)
    if params.tokenizer.kind != "none":
        from mae.stages.pretraining.fit_tokenizer import fit_tokenizer  # torch and MLflow: seconds

        fit_tokenizer(params)
        return
    reports, note = REPORTS / "tokenizer", json.dumps({"skipped": NONE}) + "\n"
    shutil.rmtree(reports / "pictures", ignore_errors=True)
    for path in (TOKENIZER.parent / "SKIPPED.txt", reports / "pictures" / "SKIPPED.txt"):
        write_text(path, NONE + "\n")
    for name in ("metrics.json", "run.json"):
        write_text(reports / name, note)
    write_csv(reports / "curve.csv", [{"step": 0}])
