"""A command that ends with its owner: run as a script, it holds the command until stdin closes.

However the owner goes (finished, terminated, killed), the system closes its end of the pipe.
"""

import os
import subprocess
import sys
import threading

PATIENCE_S = 20.0


def main(command: list[str]) -> None:
    """Run a command until stdin ends, then end it; exit as it does if it goes first."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def follow() -> None:
        os._exit(process.wait())

    threading.Thread(target=follow, daemon=True).start()
    sys.stdin.buffer.read()
    process.terminate()
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()


if __name__ == "__main__":
    main(sys.argv[1:])
