"""The command `import`: read a checkpoint of another project into an encoder file."""

from __future__ import annotations

import argparse

HELP = "read an official MAE, timm or Hugging Face checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="the checkpoint")
    parser.add_argument("target", help="the encoder file to write, .safetensors")
    parser.add_argument("--name", help="the timm name, if the checkpoint has none")
    parser.add_argument("--num-heads", type=int, help="the number of heads, if the checkpoint has none")
    parser.add_argument(
        "--img-size", type=int, nargs="+", metavar="PIXELS", help="another side, or height and width"
    )


def run(arguments: argparse.Namespace) -> None:
    from mae.interchange import import_

    size = arguments.img_size
    config = import_(
        arguments.source,
        arguments.target,
        name=arguments.name,
        num_heads=arguments.num_heads,
        img_size=size and (size[0] if len(size) == 1 else tuple(size)),
    )
    print(f"{arguments.target}: {config}")
