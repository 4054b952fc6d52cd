"""A model by its name in the registry, or by its artifact's address."""

from typing import Annotated

import typer

from flows.cli.settings import reach
from schemas.errors import ConfigError

Model = Annotated[
    str, typer.Option(help="A registered model: champion, candidate, previous or a version.")
]
Address = Annotated[str, typer.Option(help="Or the address of a stage1 or stage2 artifact.")]


def model_address(model: str, artifact: str) -> str:
    """The address of the model that was asked for.

    Raises:
        ConfigError: none or both are given; the registry has no such model.
        ServerError: the Prefect server that has a bucket's credentials does not answer.
    """
    if bool(model) == bool(artifact):
        raise ConfigError(
            f"--model {model!r}, --artifact {artifact!r}: give one of them, the name of a "
            "registered model (see psavlm registry) or the address of a stage1 or stage2 artifact"
        )
    if not artifact:
        from infra.registry import resolve_model

        artifact = resolve_model(model)
    reach(artifact)
    return artifact
