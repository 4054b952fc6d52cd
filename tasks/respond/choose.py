"""From a model that was named to what answers."""

from functools import partial
from pathlib import Path

from infra.fingerprint import content_hash
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import EvaluateConfig
from schemas.errors import ConfigError
from schemas.policies import operators_policy
from schemas.presets import Parameters, resolve
from schemas.taxonomy import load_taxonomy
from tasks.base_model import FOLDER, libraries
from tasks.named import Named, base_of_preset, find_model
from tasks.respond.endpoint import endpoint
from tasks.respond.local import open_local
from tasks.respond.replay import replay
from tasks.respond.responder import Responder

# How a model answers where nothing else is said: in float32, by the policy of its own card.
USUAL = EvaluateConfig()


def choose_responder(name: str, *, store: Store, preset: str) -> Responder:
    """What answers for a name (see tasks/named.py), in the precision of a preset's evaluation.

    Args:
        name: what the model is called.
        store: where the preset's base lies, or is made.
        preset: whose base is meant by `base`, and how a model here answers.

    Raises:
        ConfigError: no such model.
        DataError: no such file of answers, or one that cannot be read.
        StorageError: an artifact or folder that cannot be read.
    """
    named = find_model(name, base=lambda: base_of_preset(preset, store=store))
    return responder_of(named, resolve(Parameters(preset=preset)).evaluate)


def responder_of(named: Named, how: EvaluateConfig = USUAL) -> Responder:
    """What answers for a model that was found, by an evaluation's precision and policy.

    Raises as `choose_responder`.
    """
    if named.answers:
        return replay(named.answers)
    if named.endpoint:
        return endpoint(named.endpoint)
    if named.folder:
        return _folder(named.folder, how)
    if named.base is None:
        raise ConfigError(f"{named.name!r} has no base model to answer with")
    return stored(named.base, named.model, how)


def stored(base: Artifact, model: Artifact | None = None, how: EvaluateConfig = USUAL) -> Responder:
    """A base model by itself, or a trained stage on it; neither need be there before it answers."""
    parents = {"base": base} | ({"model": model} if model else {})
    last = model or base
    policy = operators_policy(how.policy, taxonomy=load_taxonomy(how.taxonomy)) if model else None

    def opened():
        own = _folder_of(model) if model else None
        return open_local(_folder_of(base), own, half=how.precision == "bf16", policy=policy)

    identity = {role: parent.fingerprint for role, parent in parents.items()}
    if policy is not None:
        identity["policy"] = content_hash(policy)
    # Not an alias: it may point elsewhere tomorrow.
    told = f"{last.step}/{last.fingerprint}"
    return Responder(told, {**identity, **_precision(how), **libraries()}, opened, parents)


def _folder_of(artifact: Artifact) -> Path:
    return Store(artifact.uri.rsplit("/", 2)[0]).local(artifact) / FOLDER


def _folder(name: str, how: EvaluateConfig) -> Responder:
    from model.pretrained import pretrained_identity

    files = {f"model/{file}": digest for file, digest in pretrained_identity(name, "").items()}
    identity = {**files, **_precision(how), **libraries()}
    place = Path(name).resolve()
    return Responder(place.name, identity, partial(open_local, place, half=how.precision == "bf16"))


def _precision(how: EvaluateConfig) -> dict[str, str]:
    """What answers depend on too, where it is not float32."""
    return {"precision": how.precision} if how.precision != USUAL.precision else {}
