"""From what people call a model to what answers: base, artifact, folder, endpoint, file."""

from functools import partial
from pathlib import Path

from infra.store import Store, open_artifact
from schemas.artifact import Artifact
from schemas.errors import ConfigError
from schemas.presets import Parameters, resolve
from tasks.answer import TRAINED, base_of
from tasks.base_model import FOLDER, base_model, libraries
from tasks.respond.endpoint import endpoint
from tasks.respond.local import open_local
from tasks.respond.replay import replay
from tasks.respond.responder import Responder

BASE, ANSWERS, SETTINGS = "base", "answers:", "config.json"


def choose_responder(model: str, *, store: Store, preset: str) -> Responder:
    """The model that is meant.

    Args:
        model: `base` (the preset's), a registered model, an artifact's address, a Hugging Face
            folder, `https://host/v1#model`, or `answers:FILE`.
        store: where the preset's base lies, or is made.
        preset: whose base is meant by `base`.

    Raises:
        ConfigError: no such model.
        DataError: no such file of answers.
        StorageError: an artifact or folder that cannot be read.
    """
    if model.startswith(ANSWERS):
        return replay(model.removeprefix(ANSWERS))
    if model.startswith(("http://", "https://")):
        return endpoint(model)
    if model == BASE:
        config = resolve(Parameters(preset=preset))
        return _artifact(base_model(config.base, store=store), "base")
    if (Path(model) / SETTINGS).is_file():
        return _folder(model)
    from infra.registry import resolve_model

    return _artifact(open_artifact(resolve_model(model)), model)


def _folder(name: str) -> Responder:
    from model.pretrained import pretrained_identity

    files = {f"model/{file}": digest for file, digest in pretrained_identity(name, "").items()}
    identity = {**files, **libraries()}
    return Responder(Path(name).resolve().name, identity, partial(open_local, Path(name)))


def _artifact(artifact: Artifact, name: str) -> Responder:
    store = Store(artifact.uri.rsplit("/", 2)[0])
    # Not the alias: it may point elsewhere tomorrow.
    told = f"{artifact.step}/{artifact.fingerprint}"
    if artifact.step == "base_model":
        parents, model = {"base": artifact}, None
    elif artifact.step in TRAINED:
        parents, model = {"base": base_of(artifact), "model": artifact}, artifact
    else:
        raise ConfigError(
            f"{name} is an artifact of step {artifact.step!r}, which does not answer; give one of "
            f"base_model, {' or '.join(TRAINED)}"
        )

    def opened():
        own = store.local(model) / FOLDER if model else None
        return open_local(store.local(parents["base"]) / FOLDER, own)

    identity = {role: parent.fingerprint for role, parent in parents.items()}
    return Responder(told, {**identity, **libraries()}, opened, parents)
