"""What is said of a process that dies, and of none that ends by itself."""

import subprocess
import sys

import pytest

ENDS = {
    "os.kill(os.getpid(), signal.SIGKILL)": "killed in mid work\n",
    "os.abort()": "killed in mid work\n",
    "pass": "",
    "sys.exit(3)": "",
}


@pytest.mark.parametrize(("end", "says"), ENDS.items(), ids=ENDS)
def test_only_a_process_that_dies_within_has_last_words(end: str, says: str) -> None:
    code = (
        "import os, signal, sys\n"
        "from infra.last_words import last_words\n"
        f"with last_words('killed in mid work'):\n    {end}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr == says
