"""The MLflow model registry: register, gate, promote, roll back. Aliases: champion, challenger, previous."""

from mae.registry.client import RegistryError
from mae.registry.continuation import NoChampion, champion_method
from mae.registry.gate import Decision, decide, decide_gain, decide_without_labels
from mae.registry.model_versions import Registered, register
from mae.registry.promotion import (
    Overtaken,
    champion_files,
    champion_version,
    conclude,
    finish,
    recorded,
    rollback,
    summary,
)

__all__ = [
    "Decision",
    "NoChampion",
    "Overtaken",
    "Registered",
    "RegistryError",
    "champion_files",
    "champion_method",
    "champion_version",
    "conclude",
    "decide",
    "decide_gain",
    "decide_without_labels",
    "finish",
    "recorded",
    "register",
    "rollback",
    "summary",
]
