"""The `psavlm` command: settings first, then the sub-command, then one message if it went wrong."""

import json
import os
import shlex
import signal
import sys
from types import FrameType

import typer
from typer.exceptions import TyperException

from flows.cli.settings import quiet
from schemas.errors import ConfigError, PsavlmError, StoppedError

PROCESS = os.getpid()


def application() -> typer.Typer:
    """The command with all its sub-commands."""
    from flows.cli import (
        ablate,
        answer,
        attack,
        audit,
        benchmark,
        card,
        compare,
        doctor,
        explain,
        export,
        gc,
        lineage,
        plan,
        probe,
        registry,
        review,
        run,
        servers,
        sources,
        steps,
        sweep,
        verify,
    )

    app = typer.Typer(
        name="psavlm",
        help="Make a vision-language model safe, and know that it is.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    parts = (
        run, plan, sweep, ablate, probe, attack, steps, sources, audit, benchmark, compare, review,
        card, answer, explain, export, registry, lineage, verify, gc, servers, doctor,
    )  # fmt: skip
    for part in parts:
        part.register(app)
    return app


def main() -> None:
    """Run the command; exit code 0 done, 1 failed, 2 bad input."""
    quiet()
    signal.signal(signal.SIGTERM, _ended)
    as_json = "--json" in sys.argv
    try:
        # Without --json typer itself tells a misspelt option, in its own box.
        sys.exit(application()(standalone_mode=not as_json))
    except PsavlmError as error:
        if os.environ.get("PSAVLM_TRACEBACK"):
            raise
        _say(type(error).__name__, str(error), as_json)
        sys.exit(error.exit_code)
    except TyperException as error:
        _say(ConfigError.__name__, f"{error.format_message()} (see psavlm --help)", as_json)
        sys.exit(error.exit_code)


def _ended(number: int, _: FrameType | None) -> None:
    """SIGTERM, from SLURM, a spot machine or a person: end as an error does, with its message."""
    if os.getpid() != PROCESS:  # a child by fork, which ends as any other process
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    command = shlex.join(["psavlm", *sys.argv[1:]])
    raise StoppedError(f"ended by SIGTERM; what is done is stored, and this goes on: {command}")


def _say(name: str, text: str, as_json: bool) -> None:
    message = " ".join(line.strip() for line in text.splitlines())
    if as_json:
        sys.stdout.write(json.dumps({"error": name, "message": message}) + "\n")
    else:
        sys.stderr.write(f"{name}: {message}\n")
