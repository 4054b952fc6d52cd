"""The `psavlm` command: settings first, then the sub-command, then one message if it went wrong."""

import json
import os
import sys

import typer

from flows.cli.settings import quiet
from schemas.errors import PsavlmError

app = typer.Typer(
    name="psavlm",
    help="Make a vision-language model safe, and know that it is.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def main() -> None:
    """Run the command; exit code 0 done, 1 failed, 2 bad input."""
    quiet()
    from flows.cli import answer, run, steps

    for part in (run, steps, answer):
        part.register(app)
    try:
        app()
    except PsavlmError as error:
        if os.environ.get("PSAVLM_TRACEBACK"):
            raise
        _say(error)
        sys.exit(error.exit_code)


def _say(error: PsavlmError) -> None:
    if "--json" in sys.argv:
        line = {"error": type(error).__name__, "message": str(error)}
        sys.stdout.write(json.dumps(line) + "\n")
    else:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
