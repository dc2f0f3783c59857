"""Registered models stay registered without the shards, as in a clean clone."""

import json

from stages.tiny import run


def test_register_asks_for_no_shards_where_the_registry_has_every_model(ran):
    folder, params = ran
    decision = folder / "reports/register/decision.json"
    shards = [folder / "data" / name / "tars" for name in ("shards", "detect/shards", "segment/shards")]
    away = [tars.rename(tars.with_name("away")) for tars in shards]
    try:
        decision.unlink()
        run(folder, params, "register")
    finally:
        for tars, moved in zip(shards, away, strict=True):
            moved.rename(tars)
    assert set(json.loads(decision.read_text())) == {"encoder", "detector", "segmenter"}
