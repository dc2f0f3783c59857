"""Rank, world size, gather, mean: the only place that touches torch.distributed. One process by default.

Nothing here needs a launcher: without `init` (or with `init` outside torchrun) every function answers for
one process. Under torchrun, `init` reads the launcher's variables and joins the group.
"""

import os
import pickle
import socket
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)
LOOPBACK = "127.0.0.1"
_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def init(device: str | None = None, timeout_minutes: float = 30) -> torch.device:
    """Join torchrun's process group if there is one and return this process's device.

    device: "cpu", "cuda" or None (cuda where there is one). Ranks of one machine take one card each.
    Raises ValueError for a device that this machine does not have, RuntimeError where more ranks than cards
    were started.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"device {kind!r} was asked for, but torch sees no GPU here: set runtime.device to cpu"
        )
    launched = all(name in os.environ for name in _TORCHRUN) and int(os.environ["WORLD_SIZE"]) > 1
    place = torch.device(kind)
    if launched and place.type == "cuda":
        card = int(os.environ.get("LOCAL_RANK", "0"))
        if card >= torch.cuda.device_count():
            raise RuntimeError(
                f"local rank {card} has no GPU of its own: this machine has {torch.cuda.device_count()}; "
                "lower --nproc-per-node"
            )
        place = torch.device("cuda", card)
    if place.type == "cuda":
        place = torch.device("cuda", place.index or 0)
        torch.cuda.set_device(place)
    if launched and not dist.is_initialized():
        # Both backends on GPU machines: gloo carries small host values without waiting for the device.
        backend = "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo"
        timeout = timedelta(minutes=timeout_minutes)
        number, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        store = _store(timeout, number, world)
        dist.init_process_group(backend, timeout=timeout, store=store, rank=number, world_size=world)
    return place


def _store(timeout: timedelta, number: int, world: int) -> dist.Store | None:
    """Open the store through which the ranks of one machine meet; None where torch's own is to be used.

    Torch's listens on every address of the machine, and asks nobody for a password.
    """
    agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if agents or os.environ.get("LOCAL_WORLD_SIZE") != str(world):
        return None
    port = int(os.environ["MASTER_PORT"])
    listening = None if number else socket.create_server((LOOPBACK, port)).detach()
    return dist.TCPStore(
        LOOPBACK, port, world, is_master=number == 0, timeout=timeout, master_listen_fd=listening
    )


def shutdown() -> None:
    """Leave the process group; nothing to do in one process."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """Return the number of processes that train together (1 without a group)."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number among them, 0 without a group."""
    return dist.get_rank() if world_size() > 1 else 0


def local_rank() -> int:
    """Return this process's number on its own machine."""
    return int(os.environ.get("LOCAL_RANK", "0")) if world_size() > 1 else 0


def is_main() -> bool:
    """Return True on the one rank that writes files, logs and talks to the tracking server."""
    return rank() == 0


def barrier() -> None:
    """Wait for every rank to get here."""
    if world_size() > 1:
        any_true(False)  # a reduction over gloo: dist.barrier on NCCL would guess a device


def broadcast(value: Any) -> Any:
    """Return rank 0's `value` (a small plain object: a number, a name, a list of them) on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def any_true(flag: bool) -> bool:
    """Return True on every rank if `flag` is true on any of them."""
    if world_size() == 1:
        return flag
    votes = torch.tensor([int(flag)])
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return bool(votes.item())


def mean(values: Tensor) -> Tensor:
    """Average a tensor of the same shape on each rank over the ranks; a new tensor on the same device."""
    total = values.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
        total /= world_size()
    return total


def gather(rows: Tensor) -> Tensor:
    """Concatenate all ranks' rows, in rank order, on every rank.

    rows: (n, ...) with any n per rank (0 too), equal trailing shape and dtype. Returns (sum of n, ...).
    """
    if world_size() == 1:
        return rows
    rows = rows.contiguous()
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(rows)]))
    counts = [int(size) for size in sizes]
    padded = rows.new_zeros((max(counts), *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def gather_with_gradient(rows: Tensor) -> Tensor:
    """Gather equally many rows (n, ...) of every rank, as `gather` does, with gradients.

    Where every rank computes one and the same loss of all rows, the gradients of a replica (`replicate`),
    which are averaged over the ranks, are those of one process with all rows. Rows on the meta device, which
    have no values, are not gathered: engine/cost.py counts one rank's part.
    """
    return rows if world_size() == 1 or rows.is_meta else _Gathered.apply(rows)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(world_size())[rank()]


def gather_objects(values: Sequence[Any]) -> list[Any]:
    """Concatenate all ranks' values (anything that pickles), in rank order, on every rank.

    They travel as bytes through `gather`, hence over gloo: torch's own object collectives may choose the GPU,
    whose memory should not hold result lists.
    """
    if world_size() == 1:
        return list(values)
    packed = torch.frombuffer(bytearray(pickle.dumps(list(values))), dtype=torch.uint8)
    sizes = gather(torch.tensor([len(packed)])).tolist()
    parts = gather(packed).split(sizes)
    return [value for part in parts for value in pickle.loads(part.numpy().tobytes())]


def gather_rows(found: Mapping[int, Any]) -> dict[int, Any]:
    """Merge all ranks' {row: result} into one, by ascending row, on every rank.

    A row of several ranks comes once, with the result of the lowest of them.
    """
    whole: dict[int, Any] = {}
    for row, value in gather_objects(list(found.items())):
        whole.setdefault(row, value)
    return dict(sorted(whole.items()))


def replicate(module: nn.Module, device: torch.device) -> nn.Module:
    """Wrap `module` to average gradients over the ranks (DistributedDataParallel); itself in one process."""
    if world_size() == 1:
        return module
    cards = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(module, device_ids=cards, gradient_as_bucket_view=True)


def align_buffers(module: nn.Module) -> None:
    """Give every rank rank 0's buffers, in place: mainly the running statistics of batch norms.

    A replica does so only at the start of each forward pass, so after the last one the ranks differ.
    """
    if world_size() == 1:
        return
    with torch.no_grad():
        for buffer in module.buffers():
            values = buffer.contiguous()
            dist.broadcast(values, src=0)
            buffer.copy_(values)


def synchronise_norms(module: ModuleT) -> ModuleT:
    """Synchronise the batch norms of `module` over all ranks that train on GPUs; elsewhere change nothing.

    The parameters stay the same objects, a state dict keeps its keys.
    """
    if world_size() > 1 and "nccl" in dist.get_backend_config():
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    return module


def without_sync(module: nn.Module) -> AbstractContextManager[Any]:
    """Make a context in which a replica of `replicate` only adds up gradients, for accumulation."""
    if isinstance(module, nn.parallel.DistributedDataParallel):
        return module.no_sync()
    return nullcontext()
