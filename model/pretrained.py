"""A base model by folder or hub name: what identifies it, and a copy of its safe files only."""

import hashlib
import shutil
from pathlib import Path

from schemas.errors import ConfigError

# No pickle is ever read: weights as safetensors, everything else as JSON or plain text.
SAFE_FILES = ("*.safetensors", "*.json", "*.txt", "*.jinja", "*.model")


def pretrained_identity(name: str, revision: str) -> dict[str, str]:
    """Content hashes of a local folder's files, or the resolved commit of a hub model.

    Raises:
        ConfigError: neither a folder nor a hub name that can be resolved.
    """
    folder = Path(name)
    if folder.is_dir():
        files = _safe_files(folder)
        if not any(file.suffix == ".safetensors" for file in files):
            raise ConfigError(f"{name!r} holds no .safetensors: save the model in that format")
        return {f.relative_to(folder).as_posix(): _sha256(f) for f in files}
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        commit = HfApi().model_info(name, revision=revision or None).sha
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError) as error:
        raise ConfigError(
            f"base {name!r} is neither a folder nor a hub model that can be reached; correct the "
            f"path, or for a hub model set HF_HUB_OFFLINE=0 ({error})"
        ) from error
    return {"hub": name, "commit": str(commit)}


def copy_pretrained(name: str, revision: str, folder: Path) -> dict[str, int]:
    """Copies a model's safe files into `folder`; counts the files."""
    source = Path(name)
    if source.is_dir():
        for file in _safe_files(source):
            target = folder / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    else:
        from huggingface_hub import snapshot_download

        snapshot_download(
            name, revision=revision or None, local_dir=folder, allow_patterns=list(SAFE_FILES)
        )
    return {"files": len(_safe_files(folder))}


def _safe_files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*") if any(f.match(p) for p in SAFE_FILES))


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
