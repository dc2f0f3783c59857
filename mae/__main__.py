"""The command `mae`: a sub-command for each stage of dvc.yaml, and for each command of mae/commands.

Exit status: 0 done, 1 failed, 2 bad parameters or arguments, 3 no champion, 4 more unusable data than
`max_rejected` allows, 75 interrupted and saved (run again to resume), 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import socket
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from keyword import iskeyword
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mae import stopping
from mae.commands import NAMES
from mae.stage_table import PARALLEL, SHARDING, STAGES
from mae.suggestions import did_you_mean

if TYPE_CHECKING:
    from mae.config import Params

EXIT_BAD_PARAMS = 2
EXIT_NO_CHAMPION = 3
EXIT_REJECTED = 4
EXIT_INTERRUPTED = stopping.EXIT_STOPPED  # EX_TEMPFAIL: saved; the same command resumes
EXIT_SIGNAL = 130  # of a shell for Ctrl-C


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = _parser().parse_args(argv)
    _enter_environment()
    if arguments.command in PARALLEL:
        _enter_torchrun(arguments)
    try:
        arguments.run(arguments)
    except KeyboardInterrupt:
        print(
            f"mae {arguments.command}: interrupted; what is finished is kept, run it again", file=sys.stderr
        )
        return EXIT_SIGNAL
    except Exception as error:
        return _explain(arguments.command, error)
    return 0


class _Parser(argparse.ArgumentParser):
    """argparse's parser, with a suggestion for a misspelt command."""

    def error(self, message: str) -> NoReturn:
        wrong = re.match("argument COMMAND: invalid choice: '([^']*)'", message)
        super().error(message + (did_you_mean(wrong[1], (*STAGES, *NAMES)) if wrong else ""))


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(
        prog="mae", description="Masked-autoencoder pretraining as a pipeline."
    )
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
    for name in NAMES:
        module = import_module(f"mae.commands.{name}_" if iskeyword(name) else f"mae.commands.{name}")
        module.add_arguments(_command(commands, name, module.HELP, module.run))
    return parser


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

    with stopping.obeyed() as watch:
        name, params = arguments.command, _load(arguments)
        watch.grace = params.flows.grace
        if getattr(arguments, "list_parts", False):
            print("".join(f"{json.dumps(part)}\n" for part in stages.parts_to_write(name, params)), end="")
        else:
            stages.run_stage(name, params, getattr(arguments, "part", None) or ())


def _load(arguments: argparse.Namespace) -> Params:
    from mae import config

    return config.load(arguments.params)


def _enter_environment() -> None:
    """Become the Python of .venv where this one lacks timm, so that `dvc repro` works unactivated."""
    root = Path(__file__).resolve().parent.parent
    python = root / ".venv" / "bin" / "python"
    if importlib.util.find_spec("timm") is None and python.exists() and Path(sys.prefix) != root / ".venv":
        os.execv(python, [str(python), "-m", "mae", *sys.argv[1:]])


def _enter_torchrun(arguments: argparse.Namespace) -> None:
    """Become torchrun where its variables (PET_NPROC_PER_NODE, PET_NNODES ...) ask for several processes.

    The command in dvc.yaml is thus the same for one process and for a cluster, and another number of
    processes reruns nothing. Machines meet by stage: one that trains `pretrain` does not join `linear`.
    """
    wanted = any(name in os.environ for name in ("PET_NPROC_PER_NODE", "PET_NNODES"))
    if wanted and "RANK" not in os.environ:
        # Machines announce the address of a shared store only once, and a machine that joins later waits for
        # it in vain. Without sharing, they announce an address at every restart.
        variables = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"} | _loopback() | os.environ
        variables["PET_RDZV_ID"] = f"{os.environ.get('PET_RDZV_ID', 'mae')}-{arguments.command}"
        command = [sys.executable, "-m", "torch.distributed.run", "-m", "mae"]
        command += ["--params", arguments.params, arguments.command]
        os.execve(sys.executable, command, variables)


def _loopback() -> dict[str, str]:
    """Return variables by which the processes of one machine meet where no other machine reaches them.

    A rendezvous by TCP would listen on every address, so it is a file; see also `mae.distributed`.
    {} for several machines, and where the place of the rendezvous is set.
    """
    meets = any(name in os.environ for name in ("PET_RDZV_ENDPOINT", "PET_MASTER_ADDR"))
    if meets or os.environ.get("PET_NNODES", "1") not in ("1", "1:1"):
        return {}
    handle, file = tempfile.mkstemp(prefix="mae-", suffix=".rendezvous")
    os.close(handle)
    interface = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    return {
        "PET_RDZV_ENDPOINT": file,
        "PET_RDZV_BACKEND": "c10d",
        "PET_RDZV_CONF": "store_type=file",
        "PET_LOCAL_ADDR": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": interface,
    }


def _explain(command: str, error: Exception) -> int:
    """Print an error that our code raises on purpose, or can explain, as a message; raise others."""
    from mae.stages.context.outcome import explanation

    kind = type(error)
    said = str(error) if kind.__name__ == "Interrupted" or _is_ours(error) else explanation(error)
    if said is None:
        raise error
    print(f"mae {command}: {said}", file=sys.stderr)
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
