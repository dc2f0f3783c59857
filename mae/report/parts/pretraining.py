"""The report's part on pretraining: method, encoder, loss, and the probe on each block."""

from typing import Any

from mae.config import Params


def pretraining(results: dict[str, Any], params: Params) -> dict[str, Any]:
    """Give the metrics of pretraining, the settings that name it, and the best block of its probe."""
    result, p = results["pretrain"], params.pretrain
    return {
        **result,
        "method": p.method,
        "encoder": params.encoder.name,
        "epochs": p.epochs,
        "mask": p.mask,
        "layers": _layers(result.get("layers_top1")),
    }


def _layers(top1: list[float] | None) -> dict[str, Any] | None:
    if not top1:
        return None
    best = max(range(len(top1)), key=top1.__getitem__)
    return {"best": top1[best], "best_block": best + 1, "blocks": len(top1), "last": top1[-1]}
