"""Where sources lie, what they are called, and how their content is identified."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from infra.fingerprint import content_hash
from infra.identity import Folder, identity
from infra.places import check_folder
from schemas.config import IngestConfig, SourceConfig
from schemas.errors import ConfigError
from schemas.mapping import check_mapping, load_mapping
from schemas.taxonomy import load_taxonomy
from tasks.sources import check_use, reader_of

WORLD = "world:"


def in_world(source: SourceConfig) -> bool:
    """Whether a source, or its images, lie in the tiny world."""
    return source.uri.startswith(WORLD) or source.images.startswith(WORLD)


def named(config: IngestConfig) -> dict[str, SourceConfig]:
    """Sources by name; without one it is `format-stem`.

    Raises:
        ConfigError: no source, two of one name, or data for evaluation only that would train.
    """
    if not config.sources:
        raise ConfigError("no sources: give at least one, such as format=table,uri=my.csv")
    sources: dict[str, SourceConfig] = {}
    for source in config.sources:
        check_use(source)
        stem = PurePosixPath(source.uri.removeprefix(WORLD)).name.partition(".")[0]
        # A format of one's own is a path: its name in the file is shorter, and the same elsewhere.
        form = reader_of(source).form
        name = source.name or f"{form.name if form else source.format}-{stem}"
        if name in sources:
            raise ConfigError(
                f"two sources are called {name!r} ({sources[name].uri!r} and {source.uri!r}); "
                "give each its own name="
            )
        sources[name] = source
    return sources


def check_sources(config: IngestConfig) -> None:
    """Look whether formats, taxonomy, mappings, files and image folders are there; read nothing.

    Raises:
        ConfigError: an unknown format, taxonomy or mapping, or two sources of one name.
        DataError: a file or image folder does not exist.
    """
    taxonomy = load_taxonomy(config.taxonomy)
    for source in named(config).values():
        check_mapping(load_mapping(source.labels or reader_of(source).labels), taxonomy)
        if not source.uri.startswith(WORLD):
            reader_of(source).files(source)
        if source.images and not source.images.startswith(WORLD):
            check_folder(source.images)


def located(source: SourceConfig, world: Path | None) -> SourceConfig:
    """The source with `world:` replaced by the tiny world's folder."""
    if not in_world(source):
        return source
    if world is None:
        raise ConfigError(f"source {source.uri!r} needs the tiny world, and this run makes none")
    places = {
        field: f"{world}/{value.removeprefix(WORLD)}" if value.startswith(WORLD) else value
        for field, value in (("uri", source.uri), ("images", source.images))
    }
    return SourceConfig.model_validate({**source.model_dump(), **places})


def inputs(
    config: IngestConfig,
    sources: Mapping[str, SourceConfig],
    *,
    listed: Callable[[str], Folder],
) -> dict[str, str]:
    """Every outside input by content: the sources' files, taxonomy and label mappings.

    What lies in the tiny world is known by the parent's fingerprint instead.
    """
    found = {"taxonomy": content_hash(load_taxonomy(config.taxonomy))}
    for name, source in sources.items():
        reader = reader_of(source)
        found[f"labels:{name}"] = content_hash(load_mapping(source.labels or reader.labels))
        if reader.form:
            found[f"format:{name}"] = content_hash(reader.form)
        if not source.uri.startswith(WORLD):
            lines = [f"{file.name}\t{identity(file.uri)}" for file in reader.files(source)]
            found[f"data:{name}"] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        if source.images and not source.images.startswith(WORLD):
            found[f"images:{name}"] = listed(source.images).identity
    return found
