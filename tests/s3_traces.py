"""What commands leave: the hashes of all artifacts, and whether a planted secret is there."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from infra.files import Files
from infra.store import Store

KEY = "AKIARECOGNISABLE"
SECRET = "recognisable/secret+of+this+test"
IN_URL = "hidden-in-the-endpoint"
PROFILE = f"[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"


def planted(endpoint: str, folder: Path) -> dict[str, str]:
    """Settings with recognisable keys, and none of this machine's own."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "no-credentials"),
        "AWS_CONFIG_FILE": str(folder / "no-config"),
    }


def profile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys in a profile's file in place of the environment."""
    folder.mkdir()
    (folder / "credentials").write_text(PROFILE)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)


def psavlm(cwd: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """A command as a user types it, with more settings."""
    command = [str(Path(sys.executable).parent / "psavlm"), *words]
    environment = {**os.environ, **more}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def made(store: Store) -> dict[str, dict[str, str]]:
    """`step/fingerprint` -> file -> sha256, of all artifacts of a root.

    Not of the report, which tells when and where it was made.
    """
    files = Files.at(store.root)
    found = {}
    for path in files.found():
        if path.endswith("/manifest.json"):
            manifest = json.loads(files.read(path) or b"")
            if manifest["step"] == "report":
                continue
            home = f"{manifest['step']}/{manifest['fingerprint']}"
            found[home] = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
    return found


def leaks(*folders: Path, also: Mapping[str, bytes]) -> list[str]:
    """Where a planted secret is written: in files below folders, or in texts by name."""
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    texts = {**{str(path): path.read_bytes() for path in files}, **also}
    words = [word.encode() for word in (KEY, SECRET, IN_URL)]
    return [name for name, text in texts.items() if any(word in text for word in words)]
