"""The command `mae`: one sub-command for each stage of dvc.yaml, and a few tools beside them.

Exit status: 0 done, 1 failed, 2 bad parameters or arguments, 3 there is no champion, 4 more of the data
cannot be used than max_rejected allows, 75 interrupted and saved (run again to resume).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mae.stage_table import PARALLEL, SHARDING, STAGES

if TYPE_CHECKING:
    from mae.config import Params

EXIT_BAD_PARAMS = 2
EXIT_NO_CHAMPION = 3
EXIT_REJECTED = 4
EXIT_INTERRUPTED = 75  # EX_TEMPFAIL: saved; the same command goes on from there


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    arguments = _parser().parse_args(argv)
    _enter_environment()
    if arguments.command in PARALLEL:
        _enter_torchrun(arguments)
    try:
        arguments.run(arguments)
    except Exception as error:
        return _explain(arguments.command, error)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mae", description="Masked-autoencoder pretraining as a pipeline.")
    parser.add_argument("--params", default="params.yaml", help="the parameters (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for row in STAGES.values():
        stage = _command(commands, row.name, row.help, _stage)
        if row.name in SHARDING:
            parts = stage.add_mutually_exclusive_group()
            parts.add_argument(
                "--list-parts", action="store_true", help="only name the shards still to write"
            )
            parts.add_argument("--part", nargs="+", metavar="NAME", help="only write these shards")
    _add_tools(commands)
    return parser


def _add_tools(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The commands that are no stage of dvc.yaml."""
    recipe = _command(commands, "recipe", "lay a recipe over the parameters", _recipe)
    recipe.add_argument("file", nargs="?", help="an overlay such as recipes/imagenet_vit_base.yaml")
    recipe.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. ingest.root=/data"
    )

    export = _command(commands, "export", "write an encoder in another project's form", _export)
    export.add_argument("source", help="e.g. models/pretrain/encoder.safetensors")
    export.add_argument("target")
    export.add_argument("--format", default="timm", choices=["timm", "official", "hf"])

    importing = _command(commands, "import", "read an official MAE, timm or Hugging Face checkpoint", _import)
    importing.add_argument("source")
    importing.add_argument("target", help="an encoder file of ours, .safetensors")
    importing.add_argument("--name", help="the timm name, where the file does not tell")
    importing.add_argument("--num-heads", type=int, help="where the file does not tell")
    importing.add_argument(
        "--img-size", type=int, nargs="+", metavar="PIXELS", help="another side, or height and width"
    )

    _command(commands, "sync", "send metrics kept in files while the MLflow server was away", _sync)
    rollback = _command(commands, "rollback", "make the previous champion the champion again", _rollback)
    rollback.add_argument(
        "model",
        nargs="?",
        default="encoder",
        choices=["encoder", "detector", "segmenter"],
        help="the encoder goes with its classifier (default: %(default)s)",
    )
    champion = _command(commands, "champion", "write the champion's weights, for pretrain.init", _champion)
    champion.add_argument("out", help="a folder; the file in it is named by its sha256, and printed")

    drift = _command(commands, "drift", "say how the listed images differ from an earlier listing", _drift)
    drift.add_argument("--since", required=True, metavar="DIR", help="a kept copy of data/ingest")
    drift.add_argument("--out", required=True, metavar="DIR", help="for drift.json and its pictures")


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    run: Callable[[argparse.Namespace], None],
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(run=run)
    return command


def _stage(arguments: argparse.Namespace) -> None:
    from mae import stages

    name, params = arguments.command, _load(arguments)
    if getattr(arguments, "list_parts", False):
        print("".join(f"{json.dumps(part)}\n" for part in stages.parts_to_write(name, params)), end="")
    else:
        stages.run_stage(name, params, getattr(arguments, "part", None) or ())


def _recipe(arguments: argparse.Namespace) -> None:
    from mae.config.recipe import lay

    for line in lay(arguments.file, arguments.set, onto=Path(arguments.params)):
        print(line)


def _export(arguments: argparse.Namespace) -> None:
    from mae.interchange import export

    export(arguments.source, arguments.target, arguments.format)


def _import(arguments: argparse.Namespace) -> None:
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


def _sync(arguments: argparse.Namespace) -> None:
    from mae.stages.register import sync

    sync(_load(arguments))


def _rollback(arguments: argparse.Namespace) -> None:
    from mae.stages.register import rollback

    rollback(_load(arguments), arguments.model)


def _champion(arguments: argparse.Namespace) -> None:
    from mae.commands.champion import champion

    champion(_load(arguments), Path(arguments.out))


def _drift(arguments: argparse.Namespace) -> None:
    from mae.commands.drift import drift

    drift(_load(arguments), Path(arguments.since), Path(arguments.out))


def _load(arguments: argparse.Namespace) -> Params:
    from mae import config

    return config.load(arguments.params)


def _enter_environment() -> None:
    """Become the .venv's Python where this one lacks timm: its `dvc repro` then works unactivated."""
    root = Path(__file__).resolve().parent.parent
    python = root / ".venv" / "bin" / "python"
    if importlib.util.find_spec("timm") is None and python.exists() and Path(sys.prefix) != root / ".venv":
        os.execv(python, [str(python), "-m", "mae", *sys.argv[1:]])


def _enter_torchrun(arguments: argparse.Namespace) -> None:
    """Become torchrun where its own variables (PET_NPROC_PER_NODE, PET_NNODES ...) ask for several processes.

    So the command in dvc.yaml is the same for one process and for a cluster, and changing the number of
    processes reruns nothing. Machines meet by stage: one that still trains `pretrain` does not join `linear`.
    """
    wanted = any(name in os.environ for name in ("PET_NPROC_PER_NODE", "PET_NNODES"))
    if wanted and "RANK" not in os.environ:
        os.environ["PET_RDZV_ID"] = f"{os.environ.get('PET_RDZV_ID', 'mae')}-{arguments.command}"
        # A machine that joins later waits in vain for the address of the store that the earlier ones share,
        # which they tell only once; without sharing it is told at every restart.
        os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
        command = [sys.executable, "-m", "torch.distributed.run", "-m", "mae"]
        os.execv(sys.executable, [*command, "--params", arguments.params, arguments.command])


def _explain(command: str, error: Exception) -> int:
    """What our code raises on purpose is a message for the user; anything else is a fault: show its trace."""
    kind = type(error)
    if kind.__name__ != "Interrupted" and not _is_ours(error):
        raise error
    print(f"mae {command}: {error}", file=sys.stderr)
    known = {
        "Interrupted": EXIT_INTERRUPTED,
        "InvalidParams": EXIT_BAD_PARAMS,
        "NoChampion": EXIT_NO_CHAMPION,
        "TooManyRejected": EXIT_REJECTED,
    }
    return known.get(kind.__name__, 1)


def _is_ours(error: Exception) -> bool:
    if type(error).__module__.startswith("mae."):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_in = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    return type(error) in (ValueError, RuntimeError) and raised_in.startswith("mae.")


if __name__ == "__main__":
    sys.exit(main())
