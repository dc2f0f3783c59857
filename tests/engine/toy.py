"""A small training that real processes run: imports torch and the engine only."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from mae import distributed
from mae.engine.checkpoint import Checkpoints
from mae.engine.loop import FitOptions, Fitted, Interrupted, fit
from mae.engine.schedule import warmup_cosine
from mae.evaluation.classification.accuracy import evaluate

STEPS = 60
BATCH = 8


class Toy(nn.Module):
    """Regression with dropout, so that every step draws from torch's process-wide generator."""

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.body = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Dropout(dropout), nn.Linear(12, 1)).double()
        self.progress = 0.0

    def forward(self, inputs: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.body(inputs) - wanted).pow(2).mean()}

    def after_step(self, progress: float) -> None:
        self.progress = progress


class Normed(nn.Module):
    """A head on batch-normalised inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.body = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 1)).double()

    def forward(self, inputs: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.body(inputs) - wanted).pow(2).mean()}


def batches(
    start: int, attempt: int, *, steps: int = STEPS, accumulate: int = 1, pause: float = 0.0
) -> Iterator:
    """This rank's share of each global batch, plus noise from the process-wide generator."""
    rank, world = distributed.rank(), distributed.world_size()
    for micro in range(start * accumulate, steps * accumulate):
        time.sleep(pause)
        inputs = torch.randn(BATCH, 6, generator=torch.Generator().manual_seed(micro), dtype=torch.float64)
        wanted = inputs.sum(1, keepdim=True).sin()
        yield inputs[rank::world], wanted[rank::world]


def train(directory: Path | None, pause: float = 0.0, dropout: float = 0.3, **settings) -> tuple[Toy, Fitted]:
    """Fit a Toy from its first or last checkpoint on."""
    toy = Toy(dropout)
    optimizer = torch.optim.AdamW(toy.parameters(), lr=1.0)
    accumulate = settings.get("accumulate", 1)
    fitted = fit(
        toy,
        lambda start, attempt: batches(start, attempt, accumulate=accumulate, pause=pause),
        optimizer,
        steps=settings.pop("steps", STEPS),
        learning_rate=settings.pop(
            "learning_rate", lambda step: warmup_cosine(step, peak=0.03, warmup=5, total=STEPS)
        ),
        hooks=settings.pop("hooks", None),
        options=FitOptions(
            **{
                "seed": 11,
                "ema_decay": 0.9,
                "checkpoints": directory and Checkpoints(directory),
                "checkpoint_every": 3,
                "log_every": 2,
                **settings,
            }
        ),
    )
    return toy, fitted


def to_the_end(directory: Path) -> None:
    """A whole training at a pace that leaves time to kill it; leaves its weights in final.pt."""
    torch.set_num_threads(1)
    toy, fitted = train(directory, pause=0.02, accumulate=2)
    torch.save({"toy": toy.state_dict(), "ema": fitted.ema.state_dict()}, directory / "final.pt")


def as_rank(directory: Path, stop_at: int | None) -> None:
    """One of the ranks of `run_ranks`; leaves its curve, weights and end in rank<n>.pt.

    The last rank alone sends itself SIGTERM in step `stop_at`.
    """
    device = distributed.init("cpu")
    rank, world = distributed.rank(), distributed.world_size()
    curve: dict[int, float] = {}
    found: dict = {
        "curve": curve,
        "interrupted": None,
        "checkpoints": Checkpoints(directory / "checkpoints").steps(),
    }

    def stop(step: int) -> None:
        if step == stop_at and rank == world - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        toy, fitted = train(
            directory / "checkpoints",
            dropout=0.0,
            device=device,
            accumulate=2,
            hooks={1: stop},
            log=lambda step, values: curve.update({step: values["loss"]}),
        )
        found |= {"toy": toy.state_dict(), "resumed": fitted.resumed_from}
    except Interrupted as stopped:
        found["interrupted"] = stopped.step
    found["normed"] = normed()
    found["gathered"] = distributed.gather(torch.arange(rank * 2) + 10 * rank)
    found["objects"] = distributed.gather_objects([{"rank": rank, "text": "x" * 50}] * rank)
    found["rows"] = distributed.gather_rows({5 - rank: f"from {rank}", 9: f"from {rank}"})
    found["mean"] = distributed.mean(torch.tensor(float(rank)))
    found["any"] = distributed.any_true(rank == world - 1)
    found["said"] = distributed.broadcast(f"rank {rank}")
    found["evaluated"] = evaluated(rank, world)
    torch.save(found, directory / f"rank{rank}.pt")
    distributed.shutdown()


def normed() -> dict[str, dict[str, Tensor]]:
    """State of a batch norm and of its moving average, trained for a few steps on each rank's own images."""
    model = Normed()
    optimizer = torch.optim.SGD(model.parameters())
    options = FitOptions(seed=1, ema_decay=0.9, log_every=5)
    fitted = fit(model, batches, optimizer, steps=5, learning_rate=lambda step: 0.1, options=options)
    return {"model": model.state_dict(), "ema": fitted.ema.state_dict()}


class Echo(nn.Module):
    """Reads its logits out of the picture."""

    def logits(self, images: Tensor) -> Tensor:
        return images[:, 0, 0]


def evaluated(rank: int, world: int) -> dict:
    """Eleven samples, every third one wrong, dealt out over the ranks; row 0 comes on every rank."""
    rows = torch.tensor(sorted({0, *range(rank, 11, world)}))
    labels = rows % 4
    logits = torch.eye(4)[(labels + (rows % 3 == 0)) % 4]
    batch = {"images": logits[:, None, None], "labels": labels, "rows": rows, "skipped": rank}
    found = evaluate(Echo(), [batch], 4, normalize=lambda images: images)
    return {
        "top1": found.top1,
        "count": found.count,
        "correct": found.correct.tolist(),
        "skipped": found.skipped,
    }
