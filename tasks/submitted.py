"""What a job of ours runs on its cluster: one training, then one line about an error, if any.

    python -m tasks.submitted 3.11 s3://bucket/prefix stage1-<fingerprint>

The arguments are the Python of the command that submitted it, the root, and the run's folder there.
Nothing of the project is imported before that Python is known to be the one that is here, too.
"""

import signal
import sys
from types import FrameType

PYTHON = ".".join(map(str, sys.version_info[:2]))


def main() -> None:
    """Exit code 0 done, 1 failed, 2 bad input."""
    wanted, root, run = sys.argv[1:]
    if wanted != PYTHON:
        told = f"the cluster's Python is {PYTHON}, and {wanted} where the command was typed"
        sys.stdout.write(f'{{"error": "ConfigError", "message": "{told}: use the same one"}}\n')
        sys.exit(2)
    from infra.ray_log import error_line
    from schemas.errors import PsavlmError
    from tasks.train.remote import carry_out

    signal.signal(signal.SIGTERM, _ended)
    try:
        carry_out(root, run)
    except PsavlmError as error:
        text = " ".join(str(error).split())
        sys.stdout.write(f"{error_line(type(error).__name__, text)}\n")
        sys.exit(error.exit_code)


def _ended(_: int, __: FrameType | None) -> None:
    """The cluster's way to stop a job: end as an error does, with a checkpoint."""
    from schemas.errors import StoppedError

    raise StoppedError("the job was stopped; the same command goes on")


if __name__ == "__main__":
    main()
