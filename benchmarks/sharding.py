"""Copying an image tree into shards, side by side, as ratios to `cp -r`:

    python benchmarks/sharding.py RAW_DIR [--rounds 3] [--workers 1 2]

Peers: `cp -r`, the tarfile module, webdataset's ShardWriter. Ours also decodes every image once (to find
damaged ones) and hashes every byte. Rounds are interleaved; medians of wall time, page cache warm.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mae.data.listing.listing_file import Listing
from mae.data.listing.manifest import open_source, write_listing
from mae.data.shards.write_shards import write_shards


def copy_tree(raw: Path, listing: Path, place: Path) -> None:
    subprocess.run(["cp", "-r", raw, place], check=True)


def tarfile_module(raw: Path, listing: Path, place: Path) -> None:
    with tarfile.open(place / "all.tar", "w") as tar:
        for entry in Listing(listing):
            tar.add(raw / entry.path, arcname=entry.path.replace("/", "_"))


def shard_writer(raw: Path, listing: Path, place: Path) -> None:
    import webdataset  # here, because sharding's workers import this file afresh

    with webdataset.ShardWriter(f"{place}/train-%06d.tar", maxcount=1250, verbose=0) as writer:
        for number, entry in enumerate(Listing(listing)):
            data = (raw / entry.path).read_bytes()
            about = {"path": entry.path}
            writer.write({"__key__": f"{number:09d}", "jpg": data, "cls": "0", "json": about})


def ours(workers: int) -> Callable[[Path, Path, Path], None]:
    def run(raw: Path, listing: Path, place: Path) -> None:
        write_shards(listing, place / "out", place / "work", max_rejected=10**9, workers=workers)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("raw", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    ways = {"cp -r": copy_tree, "tarfile module": tarfile_module, "webdataset ShardWriter": shard_writer}
    ways |= {f"mae.data, {workers} workers": ours(workers) for workers in arguments.workers}
    with tempfile.TemporaryDirectory() as place:
        listing = Path(place, "listing")
        manifest = write_listing(open_source("folder", arguments.raw), listing)
        size = sum(split["bytes"] for split in manifest["splits"].values())
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.rounds):
            for name, way in ways.items():
                target = Path(place, "target")
                target.mkdir()
                began = time.perf_counter()
                way(arguments.raw, listing, target)
                times[name].append(time.perf_counter() - began)
                shutil.rmtree(target)
    for name, found in times.items():
        ratio = statistics.median(base / one for base, one in zip(times["cp -r"], found, strict=True))
        rate = size / 1e6 / statistics.median(found)
        print(json.dumps({"way": name, "MB_per_s": round(rate), "ratio": round(ratio, 2)}))


if __name__ == "__main__":
    main()
