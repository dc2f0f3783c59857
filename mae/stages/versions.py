"""The stage `versions`: write the version of what each stage computes, for DVC to see.

It runs first and always, and costs seconds: before it writes, it checks that the settings will do for all
stages (the preflight). The other stages name their numbers as parameters, so that a raised number reruns them
and a changed line of code does not.
"""

from mae import results
from mae.config import Params
from mae.config.paths import VERSIONS
from mae.files import write_json
from mae.stages.preflight.checks import refuse_unready


def versions(params: Params) -> None:
    """Run the preflight; write mae/results.yaml of the installed package as data/versions.json."""
    refuse_unready(params)
    write_json(VERSIONS, results.versions())
