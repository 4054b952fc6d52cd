"""Export: a trained model as a folder that leaves this machine.

Where a method needs nothing but weights to answer, that is a standard Hugging Face folder with the
adapter worked in. Safety tokens and the guard are no part of any transformers class: with them the
parts are exported side by side, and a README says how they come together.
"""

import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.store import Store
from schemas.errors import ConfigError
from tasks.answer import base_of, trained
from tasks.base_model import FOLDER, known_as

if TYPE_CHECKING:
    from model.checkpoint import ModelCard

NOTE, README = "psavlm.json", "README.md"
WEIGHTS = "*.safetensors*"


def export_model(uri: str, out: Path) -> dict[str, Any]:
    """Write a trained artifact to a new folder.

    Returns:
        `form` (`merged`, or `parts` where a merged model would answer otherwise), `needs` (what
        beside weights the method has), `base`, `revision`, `method` and `out`.

    Raises:
        ConfigError: the address is not that of a trained stage; `out` exists or cannot be written.
    """
    artifact = trained(uri)
    if out.exists():
        raise ConfigError(f"--merged {str(out)!r} exists already: give a new folder")
    from model.checkpoint import load_card

    store = Store(artifact.uri.rsplit("/", 2)[0])
    base, own = base_of(artifact), store.local(artifact) / FOLDER
    card = load_card(own)
    needs = needed(card)
    name, revision = known_as(store, base)
    told = {
        "form": "parts" if needs else "merged",
        "needs": needs,
        "base": name,
        "revision": revision,
        "method": card.method.model_dump(),
        "taxonomy": card.taxonomy.name,
        "artifact": f"{artifact.step}/{artifact.fingerprint}",
    }
    draft = out.with_name(f".{out.name}.{uuid.uuid4().hex}")
    try:
        draft.mkdir(parents=True)
        FORMS[str(told["form"])](store.local(base) / FOLDER, own, draft)
        (draft / NOTE).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        (draft / README).write_text(readme(told), encoding="utf-8")
        draft.rename(out)
    except OSError as error:
        raise ConfigError(
            f"--merged {str(out)!r} cannot be written: {error.strerror or error}; give a new "
            "folder where there is room"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return {**told, "out": str(out)}


def needed(card: "ModelCard") -> list[str]:
    """What the method needs to answer beside the weights of the base and of an adapter."""
    method, needs = card.method, []
    # Concept tokens stand in a prompt only when the guard acts.
    if method.llm_tokens == "static":
        needs.append("static safety tokens")
    if method.intervention != "off":
        needs.append(f"the guard (intervention {method.intervention!r})")
    return needs


def _merged(base: Path, model: Path, out: Path) -> None:
    """The base with the adapter in its weights, in the base's own files and floating type."""
    import torch

    from model.backbone import Backbone
    from model.checkpoint import load_model
    from model.merge import merge_lora

    backbone = Backbone.load(str(base))
    load_model(model, backbone)
    merge_lora(backbone)
    stored = json.loads((base / "config.json").read_text(encoding="utf-8"))
    dtype = str(stored.get("dtype") or stored.get("torch_dtype") or "float32")
    shutil.copytree(base, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns(WEIGHTS))
    backbone.vlm.to(getattr(torch, dtype)).save_pretrained(out)


def _parts(base: Path, model: Path, out: Path) -> None:
    shutil.copytree(base, out / "base")
    shutil.copytree(model, out / "model")


FORMS: dict[str, Callable[[Path, Path, Path], None]] = {"merged": _merged, "parts": _parts}


def readme(told: dict[str, Any]) -> str:
    """What the folder is, and how it is used."""
    base = told["base"] + (f" at {told['revision']}" if told["revision"] else "")
    head = f"# A model aligned by psavlm\n\nBase: {base}. Artifact: {told['artifact']}. "
    head += f"`{NOTE}` holds the method.\n\n"
    if told["form"] == "merged":
        return head + (
            "The adapter is part of the weights: any program that reads the base's format reads "
            "this folder, for instance\n"
            "`transformers.AutoModelForImageTextToText.from_pretrained(folder)`.\n"
        )
    return head + (
        f"This method answers with {' and '.join(told['needs'])}, which no transformers class "
        "has.\nSo the base in `base/` alone does not answer as this model does. With psavlm "
        "installed:\n\n"
        "```python\n"
        "from pathlib import Path\n\n"
        "from PIL import Image\n\n"
        "from tasks.evaluate.arms import open_backbone, open_guarded\n\n"
        'folder = Path(".")\n'
        'guarded, intervention = open_guarded(folder / "model", open_backbone(folder / "base"))\n'
        'image = Image.open("picture.png").convert("RGB")\n'
        '(answer,) = guarded.answer([image], ["what is this ?"], intervention=intervention)\n'
        "print(answer.text, answer.verdict)\n"
        "```\n\n"
        "`model/` holds `model.json` (base, taxonomy, method, hints, policy), the safety modules "
        "and, after\nstage 2, the adapter in peft's own format.\n"
    )
