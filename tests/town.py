"""A project's folder of its own for real servers: free ports, and commands as a user types them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from infra.port import spare_port

HOME = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def project(folder: Path) -> Path:
    """A project's folder with free ports."""
    for name in ("prefect.yaml", "pyproject.toml"):
        shutil.copy(HOME / name, folder)
    lines = [f"PREFECT_API_URL=http://127.0.0.1:{spare_port()}/api"]
    for name in ("MLFLOW", "RAY", "RAY_DASHBOARD"):
        lines.append(f"PSAVLM_{name}_PORT={spare_port()}")
    (folder / ".env").write_text("\n".join(lines))
    return folder


def start(*words: str, cwd: Path) -> subprocess.Popen:
    """Begin a command as a user does in the project's folder, where .env tells the ports."""
    environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
    return subprocess.Popen(
        [str(BIN / words[0]), *words[1:]],
        cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def command(*words: str, cwd: Path) -> subprocess.CompletedProcess:
    """A command to its end."""
    process = start(*words, cwd=cwd)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def psavlm(*words: str, cwd: Path) -> dict:
    """The line of JSON of a sub-command that must succeed."""
    done = command("psavlm", *words, "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)
