"""A step that asks a model, killed and run again: what was answered is kept until it is done."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from infra.answers import AnswerCache
from infra.store import Store
from schemas.artifact import Artifact

Build = Callable[[AnswerCache, Path], dict[str, int]]


def answered_once(  # noqa: PLR0913 - what a step's artifact is made of
    step: str,
    version: int,
    build: Build,
    *,
    config: Mapping[str, Any],
    parents: Mapping[str, Artifact],
    inputs: Mapping[str, str],
    store: Store,
) -> Artifact:
    """The step's artifact; its answers are forgotten when it is there.

    Args:
        step: its name.
        version: of the step.
        build: writes the files into a folder, keeping and reading answers.
        config: all settings that the bytes depend on.
        parents: artifacts that are read.
        inputs: hashes of what else is read.
        store: where artifacts live.
    """
    places = {role: parent.uri for role, parent in parents.items()}
    kept = AnswerCache({step: version, **config, "parents": places, "inputs": dict(inputs)})
    made = store.artifact(
        step,
        version,
        config=config,
        parents=parents,
        inputs=inputs,
        build=lambda folder: build(kept, folder),
    )
    if made.counts:  # not where it was only planned
        kept.clear()
    return made
