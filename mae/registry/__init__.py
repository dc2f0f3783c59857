"""The MLflow model registry: register, judge, promote, roll back. Aliases: champion, challenger, previous."""

from mae.registry.gate import Decision, decide
from mae.registry.models import Registered, register
from mae.registry.promotion import champion_files, champion_version, conclude, rollback, summary
from mae.registry.store import RegistryError

__all__ = [
    "Decision",
    "Registered",
    "RegistryError",
    "champion_files",
    "champion_version",
    "conclude",
    "decide",
    "register",
    "rollback",
    "summary",
]
