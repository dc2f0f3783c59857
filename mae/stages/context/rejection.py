"""The bound on unusable images, as params.yaml sets it for each set."""

from mae.config import Params
from mae.config.paths import DataSet
from mae.data.rejection_limit import RejectionLimit


def rejection_limit(params: Params, files: DataSet) -> RejectionLimit:
    """Return the bound of the set's section, with the key that sets it."""
    return RejectionLimit(getattr(params, files.section).max_rejected, f"{files.section}.max_rejected")
