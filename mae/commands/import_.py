"""The command `import`: read a checkpoint of another project into an encoder file."""

from __future__ import annotations

import argparse

HELP = "read a checkpoint of ours, MAE, timm, Hugging Face, MoCo v3 or DINO into an encoder file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="the checkpoint: a file of torch or safetensors, or a folder")
    parser.add_argument("target", help="the encoder file to write, .safetensors")
    parser.add_argument("--name", help="the timm name, if the checkpoint has none")
    parser.add_argument("--num-heads", type=int, help="the number of heads, if the checkpoint has none")
    parser.add_argument(
        "--img-size", type=int, nargs="+", metavar="PIXELS", help="another side, or height and width"
    )
    parser.add_argument("--prefix", help="the prefix of the encoder's names, if the checkpoint has several")
    for name in ("mean", "std"):
        parser.add_argument(
            f"--{name}",
            type=float,
            nargs="+",
            metavar="SHARE",
            help=f"the {name} of its images' colours, 0 to 1 (default: the checkpoint's, else ImageNet's)",
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
        mean=arguments.mean,
        std=arguments.std,
        prefix=arguments.prefix,
    )
    print(f"{arguments.target}: {config}")
