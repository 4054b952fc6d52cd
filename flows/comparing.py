"""The lines of a comparison: sides, items, answers, page; plainly or as Prefect tasks."""

from collections.abc import Iterator, Sequence

from flows.line import Do, pipeline, up_to
from infra.store import Store
from schemas.artifact import Artifact
from schemas.comparison import CompareConfig
from schemas.config import PipelineConfig
from schemas.decision import Version
from schemas.errors import ConfigError, StorageError
from tasks.card import Scored
from tasks.compare import answered, chosen_items, compare_models, history_table
from tasks.compare.fair import Side
from tasks.compare.sides import Asking, find_sides, learnt_from
from tasks.compare.step import ROLES
from tasks.examine import examine
from tasks.named import BASE, Named, find_model, find_trained
from tasks.respond import responder_of


def compare_sides(
    names: tuple[str, str], items: str, config: PipelineConfig, *, do: Do, store: Store
) -> dict[str, Artifact]:
    """The page of two models (`compare`) and what is behind it: `old`, `new`, and benchmarks.

    Args:
        names: of the old model and of the new one.
        items: address of a labelled snapshot; empty is what the new model was trained on, else
            the old one, else the preset's own.
        config: the preset's: how items are asked and images encoded.
        do: calls a step.
        store: where artifacts live.
    """
    sides, answers, labelled = both_answers(names, items, config, do=do, store=store)
    told = tuple(
        Side(side.name, found, learnt_from(side))
        for side, found in zip(sides, answers, strict=True)
    )
    asked = dict(_on_benchmarks(sides, config, do=do, store=store))
    page = do("compare", compare_models, _settings(config), told, labelled, asked, store=store)
    return {"compare": page, "old": answers[0], "new": answers[1], **asked}


def _on_benchmarks(
    sides: tuple[Named, Named], config: PipelineConfig, *, do: Do, store: Store
) -> Iterator[tuple[str, Artifact]]:
    """Both sides on the preset's benchmarks, by `benchmark/old` and `benchmark/new`.

    None where a side's answers were given before: a file's are to the held-out items alone.
    """
    how = config.evaluate
    for one in () if any(side.answers for side in sides) else config.benchmarks:
        for role, side in zip(ROLES, sides, strict=True):
            responder = responder_of(side, how)
            workers = how.workers if responder.ranks else 1  # an endpoint is asked several at once
            name = f"benchmark {one.name} {role}"
            made = do(name, examine, one, responder, workers=workers, store=store)
            yield f"{one.name}/{role}", made


def both_answers(
    names: tuple[str, str], items: str, config: PipelineConfig, *, do: Do, store: Store
) -> tuple[tuple[Named, Named], tuple[Artifact, Artifact], Artifact]:
    """Both sides, their judged answers, and the items; as `compare_sides`."""
    old, new = find_sides(names, store=store)
    labelled = chosen_items(items, (old, new))
    if labelled is None:
        labelled = up_to(pipeline(config, store=store, do=do), "validate")["validate"]
    asking = Asking(config.evaluate, config.encode, labelled, store, do)
    return (old, new), (answered(old, asking), answered(new, asking)), labelled


def _settings(config: PipelineConfig) -> CompareConfig:
    """How it is compared; rates have the intervals that the preset's evaluation gives them."""
    return CompareConfig(interval=config.evaluate.interval)


def compare_versions(
    versions: Sequence[Version], items: str, config: PipelineConfig, *, do: Do, store: Store
) -> Artifact:
    """The page of all registered versions on common items.

    Args:
        versions: as registered, in order.
        items: address of a labelled snapshot; empty is what the newest version learned on.
        config: the preset's.
        do: calls a step.
        store: where artifacts live.

    Raises:
        ConfigError: no version is there that names its items.
    """
    sides = {}
    for one in versions:
        try:
            sides[one.version] = find_model(one.uri)
        except StorageError:  # told in the table
            continue
    labelled = chosen_items(items, list(sides.values()))
    if labelled is None or not sides:
        raise ConfigError(
            f"of {len(versions)} registered versions none is there that names its items: give "
            "--items, or register a model first (psavlm run)"
        )
    asking = Asking(config.evaluate, config.encode, labelled, store, do)
    found = {number: answered(side, asking) for number, side in sides.items()}
    return do(
        "history", history_table, _settings(config), versions, found, labelled,
        store=store, trained_on={number: learnt_from(side) for number, side in sides.items()},
    )  # fmt: skip


def score_card(  # noqa: PLR0913 - a model, how it is called, its items
    address: str, name: str, items: str, config: PipelineConfig, *, do: Do, store: Store
) -> Scored:
    """What a model's card says: the model and its base on the same items.

    Args:
        address: of a trained stage.
        name: what people call it, if it is registered.
        items: address of a labelled snapshot; empty is what the model was trained on.
        config: the preset's.
        do: calls a step.
        store: where artifacts live.

    Raises:
        ConfigError: the address is not that of a trained stage, or the items are not known.
    """
    model, base = find_trained(address)
    side = Named(name or model.step, base=base, model=model)
    trained_on = chosen_items("", [side])
    labelled = chosen_items(items, [side])
    if labelled is None:
        raise ConfigError(f"{address!r} does not say what it was trained on: give --items")
    asking = Asking(config.evaluate, config.encode, labelled, store, do)
    return Scored(
        name=f"psavlm {name or model.step} {model.fingerprint[:8]}",
        model=model,
        base=base,
        evaluated=answered(side, asking),
        base_evaluated=answered(Named(BASE, base=base), asking),
        items=labelled,
        trained_on=trained_on,
    )
