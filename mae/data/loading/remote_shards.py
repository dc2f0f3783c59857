"""Batches streamed from remote shards (http, s3, any command) with the webdataset package."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from mae.addresses import redact, redact_address
from mae.data.decode import UndecodableImage, decode
from mae.data.loading.batches import TooManySkipped, checked_batches
from mae.data.loading.samples import Batch, Sample, SampleTransform, collate
from mae.data.loading.seeding import preserved_generators
from mae.data.rejection_limit import RejectionLimit

_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
_CURL_SCHEMES = ("http", "https", "sftp", "ftps", "scp", "hf", "htgs")


class RemoteUnavailable(RuntimeError):
    """A missing program that fetches this kind of address."""


def remote_batches(
    urls: str | Sequence[str],
    transform: Callable[[torch.Tensor], Any],
    *,
    batch_size: int,
    batches: int,
    seed: int,
    start: int = 0,
    attempt: int = 0,
    shuffle: int = 1000,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    views: int = 1,
    noise_shape: Sequence[int] | None = None,
    max_skipped: int = 0,
    prefetch: int = 4,
) -> Iterator[Batch]:
    """Stream `batches` batches of `batch_size` for this rank, from shards drawn with replacement.

    urls: addresses, or one with braces (`http://host/train-{000000..000031}.tar`). curl fetches http, `aws s3
    cp` fetches `s3://`, and `pipe:command` is the output of that command. shuffle: size of the mixing buffer,
    in samples. start: the step to begin at; another one draws another stream. The batches are those of the
    local loaders, with `keys` (texts) in place of `rows`.

    Unlike the local loaders, this cannot promise an epoch (a sample may come twice before another comes
    once), equal batches for other numbers of ranks or workers, equal batches after a resume (they differ from
    those of an unbroken run, but not in distribution), or an error for a shard that is cut short in transfer:
    webdataset ends it silently, and its lost samples are missing from the mix.

    max_skipped: samples that do not decode plus shards that cannot be fetched, on this rank.
    Raises: RemoteUnavailable naming the missing program; TooManySkipped naming sample or shard; ValueError.
    """
    if batch_size < 1 or not 0 <= rank < world:
        raise ValueError(f"batch size {batch_size}, rank {rank} of {world}")
    sample_transform = SampleTransform(transform, views, noise_shape)
    addresses, seeds = _addresses(urls), (seed, attempt, start, rank)
    stream = _Stream(addresses, sample_transform, batch_size, batches, seeds, shuffle, max_skipped)
    return checked_batches(stream, None, workers, prefetch, RejectionLimit(max_skipped))


class _Stream(IterableDataset):
    """One worker's share of the batches; the worker builds each batch whole."""

    def __init__(
        self,
        urls: list[str],
        sample_transform: SampleTransform,
        batch_size: int,
        batches: int,
        seed: tuple[int, ...],
        shuffle: int,
        max_skipped: int,
    ) -> None:
        self.urls, self.sample_transform, self.seed = urls, sample_transform, seed
        self.batch_size, self.batches, self.shuffle = batch_size, batches, shuffle
        self.max_skipped = max_skipped

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        bad: list[str] = []
        samples = enumerate(self._samples(worker, bad))
        for _ in range(worker, self.batches, workers):
            yield self._batch(samples, (*self.seed, worker), bad)
            bad.clear()

    def _batch(self, samples: Iterator[tuple[int, dict]], seed: tuple[int, ...], bad: list[str]) -> Batch:
        made: list[Sample] = []
        labels: list[int] = []
        keys: list[str] = []
        while len(made) < self.batch_size:
            number, sample = next(samples)
            image = self._decoded(sample, bad)
            if image is None:
                continue
            with preserved_generators():
                made.append(self.sample_transform(image, (*seed, number)))
            labels.append(int(sample.get("cls", b"-1")))
            keys.append(f"{sample['__url__']}#{sample['__key__']}")
        return {
            "labels": torch.tensor(labels, dtype=torch.int64),
            "keys": keys,
            "skipped": len(bad),
            "undecodable": list(bad),
            **collate(made),
        }

    def _samples(self, worker: int, bad: list[str]) -> Iterator[dict]:
        import webdataset

        def handler(error: Exception) -> bool:
            self._note(bad, f"shard {error.args[-1] if error.args else ''}: {error}")
            return True

        entropy = sum(part * 1_000_003**place for place, part in enumerate((*self.seed, worker)))
        shards = webdataset.ResampledShards(
            self.urls, seed=entropy, worker_seed=lambda: worker, deterministic=True
        )
        stages = [shards, webdataset.tarfile_to_samples(handler=handler)]
        if self.shuffle > 1:
            stages.append(webdataset.shuffle(self.shuffle, initial=self.shuffle, seed=entropy))
        return iter(webdataset.DataPipeline(*stages))

    def _decoded(self, sample: dict, bad: list[str]) -> torch.Tensor | None:
        data = next((sample[extension] for extension in _EXTENSIONS if extension in sample), None)
        try:
            if data is None:
                raise UndecodableImage(f"has no {', '.join(_EXTENSIONS)} member")
            return decode(data)
        except UndecodableImage as error:
            self._note(bad, f"sample {sample['__key__']} of {sample['__url__']}: {error}")
            return None

    def _note(self, bad: list[str], what: str) -> None:
        what = redact(what)  # signed addresses have a token
        bad.append(what)
        if len(bad) > self.max_skipped:  # otherwise a stream of bad samples would never end
            raise TooManySkipped(f"more than {self.max_skipped} samples or shards unreadable; last: {what}")


def _addresses(urls: str | Sequence[str]) -> list[str]:
    # webdataset's expand_urls also splits at `::`, as in an IPv6 address, and fills in variables of its own.
    from braceexpand import braceexpand

    given = [urls] if isinstance(urls, str) else list(urls)
    expanded = [url for one in given for url in braceexpand(one)]
    if not expanded:
        raise ValueError("no addresses of shards given")
    return [_fetched(url) for url in expanded]


def _fetched(url: str) -> str:
    scheme = url.split(":", 1)[0] if "://" in url else ""
    program = "curl" if scheme in _CURL_SCHEMES else {"s3": "aws", "gs": "gsutil"}.get(scheme)
    if program is not None and shutil.which(program) is None:
        where = redact_address(url)
        raise RemoteUnavailable(f"{where}: is fetched by the program {program!r}, which is not installed")
    return f"pipe:aws s3 cp {shlex.quote(url)} -" if scheme == "s3" else url
