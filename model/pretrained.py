"""A base model by folder or hub name: what identifies it, and a copy of its safe files only."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError

# No pickle is ever read: weights as safetensors, everything else as JSON or plain text.
SAFE_FILES = ("*.safetensors", "*.json", "*.txt", "*.jinja", "*.model")
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
SETTINGS = "config.json"
SOURCES = "src/transformers/models"


def pretrained_identity(name: str, revision: str) -> dict[str, str]:
    """Content hashes of a local folder's files, or the resolved commit of a hub model.

    Raises:
        ConfigError: neither a folder nor a hub name that can be resolved, or weights in a form
            that must be converted first.
    """
    folder = Path(name)
    if folder.is_dir():
        check_settings(name, read_settings(folder / SETTINGS))
        check_weights(name, (file.name for file in folder.rglob("*")))
        return {f.relative_to(folder).as_posix(): _sha256(f) for f in _safe_files(folder)}
    from huggingface_hub import HfApi, hf_hub_download

    try:
        model = HfApi().model_info(name, revision=revision or None)
        names = [file.rfilename for file in model.siblings or ()]
        if SETTINGS in names:
            check_settings(
                name, read_settings(Path(hf_hub_download(name, SETTINGS, revision=model.sha)))
            )
    except _hub_errors() as error:
        raise _unreachable(name, revision, error) from error
    check_weights(name, names)
    return {"hub": name, "commit": str(model.sha)}


def copy_pretrained(name: str, revision: str, folder: Path) -> dict[str, int]:
    """Copies a model's safe files into `folder`; counts the files.

    Raises:
        ConfigError: the hub stopped answering.
    """
    source = Path(name)
    if source.is_dir():
        for file in _safe_files(source):
            target = folder / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    else:
        from huggingface_hub import snapshot_download

        try:
            snapshot_download(
                name, revision=revision or None, local_dir=folder, allow_patterns=list(SAFE_FILES)
            )
        except _hub_errors() as error:
            raise _unreachable(name, revision, error) from error
    return {"files": len(_safe_files(folder))}


def check_settings(name: str, settings: Mapping[str, Any]) -> None:
    """Whether a config.json is that of a model in transformers' own format.

    Raises:
        ConfigError: it is one of the original LLaVA code, whose weights must be converted.
    """
    classes = settings.get("architectures") or [""]
    theirs = str(classes[0]).startswith("Llava") and str(classes[0]).endswith("ForCausalLM")
    if not theirs and "mm_vision_tower" not in settings:
        return
    tiles = settings.get("image_grid_pinpoints") or settings.get("image_aspect_ratio") == "anyres"
    family = "llava_next" if tiles else "llava"
    raise ConfigError(
        f"{name!r} is a checkpoint of the original LLaVA code ({classes[0] or 'mm_vision_tower'}): "
        f"convert it with {SOURCES}/{family}/convert_{family}_weights_to_hf.py of transformers' "
        "repository and give the new folder, or take the converted model from the hub (llava-hf)"
    )


def read_settings(file: Path) -> dict[str, Any]:
    """A config.json; ConfigError if it is none."""
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{str(file)!r} is no readable config.json of a model: {error}; give the folder that "
            "save_pretrained() wrote"
        ) from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{str(file)!r} is no config.json of a model: it holds no object")
    return settings


def check_weights(name: str, files: Iterable[str]) -> None:
    """Whether there are weights that can be read without running code.

    Raises:
        ConfigError: only pickled ones, or none at all.
    """
    names = sorted(files)
    if any(file.endswith(".safetensors") for file in names):
        return
    pickled = [file for file in names if file.endswith(PICKLED)]
    why = (
        f", only {', '.join(pickled[:3])}: a pickle can run any code when it is opened, so it is "
        "never read; load it where you trust it and save_pretrained() it again"
        if pickled
        else ": save the model in that format"
    )
    raise ConfigError(f"{name!r} holds no .safetensors{why}")


def _hub_errors() -> tuple[type[Exception], ...]:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # The second is the HTTP library's own error, which huggingface_hub has changed before.
    return HFValidationError, HfHubHTTPError.__mro__[1], OSError


def _unreachable(name: str, revision: str, error: Exception) -> ConfigError:
    at = f" --revision {revision}" if revision else ""
    return ConfigError(
        f"base {name!r} is neither a folder nor a hub model that can be reached ({error}). Correct "
        "the path; or go online with HF_HUB_OFFLINE=0 (and HF_TOKEN for a closed model); or run "
        f"`hf download {name}{at} --local-dir FOLDER` where there is a network and give FOLDER"
    )


def _safe_files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*") if any(f.match(p) for p in SAFE_FILES))


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
