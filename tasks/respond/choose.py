"""From a model that was named to what answers."""

from functools import partial
from pathlib import Path

from infra.store import Store
from schemas.artifact import Artifact
from schemas.errors import ConfigError
from tasks.base_model import FOLDER, libraries
from tasks.named import Named, base_of_preset, find_model
from tasks.respond.endpoint import endpoint
from tasks.respond.local import open_local
from tasks.respond.replay import replay
from tasks.respond.responder import Responder


def choose_responder(name: str, *, store: Store, preset: str) -> Responder:
    """What answers for a name (see tasks/named.py); `base` is the preset's.

    Args:
        name: what the model is called.
        store: where the preset's base lies, or is made.
        preset: whose base is meant by `base`.

    Raises:
        ConfigError: no such model.
        DataError: no such file of answers, or one that cannot be read.
        StorageError: an artifact or folder that cannot be read.
    """
    return responder_of(find_model(name, base=lambda: base_of_preset(preset, store=store)))


def responder_of(named: Named) -> Responder:
    """What answers for a model that was found; raises as `choose_responder`."""
    if named.answers:
        return replay(named.answers)
    if named.endpoint:
        return endpoint(named.endpoint)
    if named.folder:
        return _folder(named.folder)
    if named.base is None:
        raise ConfigError(f"{named.name!r} has no base model to answer with")
    return stored(named.base, named.model)


def stored(base: Artifact, model: Artifact | None = None) -> Responder:
    """A base model by itself, or a trained stage on it; neither need be there before it answers."""
    parents = {"base": base} | ({"model": model} if model else {})
    last = model or base

    def opened():
        own = _folder_of(model) if model else None
        return open_local(_folder_of(base), own)

    identity = {role: parent.fingerprint for role, parent in parents.items()}
    # Not an alias: it may point elsewhere tomorrow.
    told = f"{last.step}/{last.fingerprint}"
    return Responder(told, {**identity, **libraries()}, opened, parents)


def _folder_of(artifact: Artifact) -> Path:
    return Store(artifact.uri.rsplit("/", 2)[0]).local(artifact) / FOLDER


def _folder(name: str) -> Responder:
    from model.pretrained import pretrained_identity

    files = {f"model/{file}": digest for file, digest in pretrained_identity(name, "").items()}
    identity = {**files, **libraries()}
    return Responder(Path(name).resolve().name, identity, partial(open_local, Path(name).resolve()))
