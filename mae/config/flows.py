"""The sections of `params.yaml` for the flows: retries, devices, limits for new data."""

from typing import Annotated, Literal

from mae.config.sections import Section
from mae.config.values import Above0, Count, Different, Fraction, Positive, Rate, formed

# An environment variable, set by a flow: the name that the MLflow runs of its stages have in common.
REPRODUCTION = "MAE_REPRODUCTION"


class StageFlow(Section):
    """Retries and time-out of a stage in the flows. Times in seconds; a null timeout sets no limit."""

    retries: Count
    retry_delay: Rate
    timeout: Above0 | None


class Flows(StageFlow):
    """Settings of all stages except those in `stages`, and of the flow itself.

    grace: seconds for a stage to save its checkpoint before it is killed; more than a checkpoint takes to
    write, and more than torchrun's own 30 s. parallel: stages at the same time. devices: numbers of
    accelerators, one stage each; empty: one stage at a time sees them all. sharding: the task runner that
    writes shards in parallel. notify: a Prefect notification block ("slack-webhook/name"), null for the log
    alone. mlflow_pages: MLflow's address for browsers, where it differs from the address that the runs use.
    """

    grace: Above0
    parallel: Positive
    devices: Annotated[list[Count], Different]
    sharding: Literal["none", "threads", "processes", "dask", "ray"]
    notify: Annotated[str, formed(r"[^/\s]+/[^/\s]+$", "slack-webhook/team")] | None
    mlflow_pages: Annotated[str, formed(r"https?://[^/\s]+", "http://127.0.0.1:5000")] | None
    stages: dict[str, StageFlow]


class Retrain(Section):
    """Limits for new data: too few for a training, or suspect.

    start: `champion` continues from the champion's weights, `scratch` from random ones. min_new: with fewer
    new or changed images nothing happens. The other limits stop the retraining: rejected images as a share of
    the new ones; half the L1 distance between the classes' shares before and among the new images; and
    distance between statistics of the images (0: the same distribution, 1: disjoint), measured on up to
    `samples` images, also by `mae drift`.
    """

    start: Literal["champion", "scratch"]
    min_new: Positive
    max_rejected_share: Fraction
    max_class_shift: Fraction
    max_image_shift: Fraction
    samples: Positive
