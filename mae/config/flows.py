"""The sections of `params.yaml` that only the flows read: when to run again, what new data must be like."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mae.config.sections import Section
from mae.config.values import Count, Fraction, Positive, Rate


class StageFlow(Section):
    """How the flows run a stage. Times in seconds; a null timeout: as long as it takes."""

    retries: Count
    retry_delay: Rate
    timeout: Annotated[float, Field(gt=0)] | None


class Flows(StageFlow):
    """The same for every stage but those that `stages` names, and what the flow itself keeps to.

    grace: what a stage gets to save its checkpoint before it is killed; above the time that one takes to
    write, and above torchrun's own 30 s. parallel: stages side by side. devices: the accelerators' numbers,
    one stage each; empty: one stage at a time sees them all. sharding: how shards are written side by side.
    notify: a Prefect notification block ("slack-webhook/name"), null for the log alone. mlflow_pages: where
    people's browsers find MLflow, if that is not where the runs send their metrics.
    """

    grace: Annotated[float, Field(gt=0)]
    parallel: Positive
    devices: list[Count]
    sharding: Literal["none", "threads", "processes", "dask", "ray"]
    notify: str | None
    mlflow_pages: Annotated[str, Field(pattern="^https?://")] | None
    stages: dict[str, StageFlow]

    @model_validator(mode="after")
    def _devices_differ(self) -> "Flows":
        if len(set(self.devices)) < len(self.devices):
            raise ValueError(f"devices {self.devices} names one twice")
        return self


class Retrain(Section):
    """When new data is worth a training, and when it is suspect.

    start: `champion` goes on from the champion's weights, `scratch` begins anew. min_new: new or changed
    images below which nothing happens. The rest stops the retraining: rejected images as a share of the new
    ones; half the L1 distance between the classes' shares before and among the new images; and distance
    between statistics of the images (0: the same distribution, 1: nothing in common), both looked at in up
    to `samples` images.
    """

    start: Literal["champion", "scratch"]
    min_new: Positive
    max_rejected_share: Fraction
    max_class_shift: Fraction
    max_image_shift: Fraction
    samples: Positive
