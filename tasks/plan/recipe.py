"""What of a recipe is here: copies are looked for, their items counted by label."""

from collections import Counter

from infra.places import check_folder, expand
from schemas.config import IngestConfig, SourceConfig
from schemas.errors import ConfigError, DataError
from schemas.mapping import listed, load_mapping
from schemas.recipe import (
    Recipe,
    RecipeLine,
    RecipePart,
    RecipePlan,
    RecipeSet,
    RecipeTotal,
    RecipeType,
    Status,
)
from schemas.samples import RawRecord
from tasks.sources import reader_of

Found = Counter[str | None]


def recipe_plan(recipe: Recipe) -> RecipePlan:
    """Every part of a recipe with what is here of it.

    Annotations of the copies are read once each, images are not.

    Raises:
        ConfigError: a format, mapping or label that does not exist, or means another type.
        DataError: a copy that is no such data set.
    """
    _check(recipe)
    problems = {name: _problem(own) for name, own in recipe.sets.items()}
    here = [name for name, problem in problems.items() if not problem]
    sources = {name: _source(name, recipe.sets[name]) for name in here if recipe.sets[name].format}
    found = {name: count_labels(source) for name, source in sources.items()}
    lines = tuple(
        _line(kind, part, recipe.sets[part.set], problems[part.set], found.get(part.set))
        for kind in recipe.types
        for part in kind.parts
    )
    return RecipePlan(
        recipe=recipe.name,
        origin=recipe.origin,
        lines=lines,
        types=tuple(_total(kind, lines) for kind in recipe.types),
        sources=tuple(sources.values()),
        notes={own.title: own.note for own in recipe.sets.values() if own.note},
    )


def count_labels(source: SourceConfig) -> Found:
    """The items of a source by its own label; what is no item does not count."""
    items = reader_of(source).read(source, max_bytes=IngestConfig().max_image_bytes)
    return Counter(item.label for item in items if isinstance(item, RawRecord))


def _check(recipe: Recipe) -> None:
    """Whether our readers and mappings know what the recipe names, before anything is read."""
    for kind in recipe.types:
        for part in kind.parts:
            own = recipe.sets[part.set]
            if own.format:
                mapping = load_mapping(own.labels or reader_of(_source(part.set, own)).labels)
            elif part.labels:
                raise ConfigError(
                    f"recipe {recipe.name!r}: {part.name!r} has labels, and set {part.set!r} no "
                    "format that would read them"
                )
            for label in part.labels:
                target = listed(label, mapping.labels)
                if target is None or target.type != kind.type:
                    means = f"means {target.type!r}" if target else "is not listed"
                    raise ConfigError(
                        f"recipe {recipe.name!r}: label {label!r} of {part.name!r} is under type "
                        f"{kind.type!r}, and in mapping {mapping.name!r} it {means}; labels: "
                        f"{', '.join(map(repr, mapping.labels))}"
                    )


def _problem(own: RecipeSet) -> str:
    """Why there is no usable copy; empty if there is one."""
    if not own.uri:
        return "no uri is given"
    if own.needs_images and not own.images:
        return "no images are given"
    try:
        expand(own.uri)
        if own.images:
            check_folder(own.images)
    except DataError as error:
        return str(error)
    return ""


def _source(name: str, own: RecipeSet) -> SourceConfig:
    return SourceConfig(
        format=own.format,
        name=name,
        uri=own.uri,
        images=own.images,
        labels=own.labels,
        split=own.split,
    )


def _line(
    kind: RecipeType, part: RecipePart, own: RecipeSet, problem: str, found: Found | None
) -> RecipeLine:
    count = None
    if found is not None:
        count = sum(found[label] for label in part.labels) if part.labels else found.total()
        if not count:
            wanted = f" labelled {' or '.join(part.labels)}" if part.labels else ""
            problem = f"{own.uri!r} holds no item{wanted}"
    absent = Status.MISSING if own.access.open else Status.CLOSED
    # What was published for training, or else what the papers had: less is not the set.
    whole = count is not None and count >= (part.papers if part.train is None else part.train)
    here = Status.HAVE if whole else Status.PART
    return RecipeLine(
        type=kind.type,
        name=part.name,
        set=part.set,
        status=absent if problem else here,
        access=own.access,
        papers=part.papers,
        train=part.train,
        found=count,
        format=own.format,
        licence=own.licence,
        where=own.where,
        note=part.note,
        problem=problem if own.uri else "",
    )


def _total(kind: RecipeType, lines: tuple[RecipeLine, ...]) -> RecipeTotal:
    own = [line for line in lines if line.type == kind.type]
    sums = {s.value: sum(line.papers for line in own if line.status == s) for s in Status}
    return RecipeTotal(
        type=kind.type, sampled=kind.sampled, found=sum(line.found or 0 for line in own), **sums
    )
