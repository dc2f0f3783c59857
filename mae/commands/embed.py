"""The command `embed`: write the embeddings of a folder of images to a file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "write the embeddings of a folder of images to a file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "weights", help="an encoder file, or models:/NAME@ALIAS, such as models:/mae-encoder@champion"
    )
    parser.add_argument("images", metavar="DIR", help="a folder of images, of any depth")
    parser.add_argument("out", metavar="OUT", help="the file to write, NAME.parquet or NAME.npz")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--pool",
        choices=["avg", "token"],
        help="the mean patch token, or the class token (default: as the model is served; avg for a file)",
    )
    form.add_argument("--patches", action="store_true", help="the tokens of all patches, not pooled")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="images in a batch (default: 64 on a GPU, else 16)"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes that load images (default: half the processors)"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")


def run(arguments: argparse.Namespace) -> None:
    """Write names, float32 embeddings and what was rejected; the same command goes on after a kill."""
    from mae import distributed, load, stopping
    from mae.serving.embed_folder import (
        Loading,
        check_output,
        default_batch,
        default_workers,
        embed_folder,
    )

    out = Path(arguments.out)
    check_output(out)
    with stopping.obeyed():
        device = distributed.init(None if arguments.device == "auto" else arguments.device)
        batch, workers = arguments.batch_size, arguments.workers
        loading = Loading(
            default_batch(device) if batch is None else batch,
            default_workers() if workers is None else workers,
            device,
        )
        model, transform = load(arguments.weights, pool=arguments.pool, params=arguments.params)
        done = embed_folder(
            model,
            transform,
            Path(arguments.images),
            out,
            patches=arguments.patches,
            about={"weights": arguments.weights},
            loading=loading,
            log=lambda line: print(line, file=sys.stderr, flush=True),
        )
    print(f"{out}: {done.embedded:,} embeddings of {arguments.images}")
    if done.rejected:
        print(f"{out}.rejected.csv: {done.rejected:,} images that could not be read, with the reason of each")
    if done.left_out:
        print(f"{done.left_out:,} other files were left out: they are no images by name or content")
