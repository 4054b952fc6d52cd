"""The step itself: read, decode, write. in = accepted + rejected, always."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile

import pyarrow as pa

from infra.identity import Folder
from infra.parts import write_parts, write_stream
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import IngestConfig, SourceConfig
from schemas.errors import ConfigError, DataError
from schemas.samples import REJECTS, ROWS, RawRecord, RawReject
from tasks.images import image_library
from tasks.ingest.cluster import loaded
from tasks.ingest.images import Picture, Refusal
from tasks.ingest.loading import Loading, grouped
from tasks.ingest.origin import in_world, inputs, located, named
from tasks.ingest.rows import Origin, Rejects, Rows, make_row
from tasks.ingest.seen import Seen
from tasks.ingest.shards import ImageSpool
from tasks.ingest.splits import settled
from tasks.progress import say
from tasks.sources import reader_of

VERSION = 2


def ingest(
    config: IngestConfig, world: Artifact | None = None, *, store: Store, cluster: str = ""
) -> Artifact:
    """Sources -> samples (`rows/`, `images/`, `rejects/`); the image bytes go to the library.

    Counts: in, accepted, rejected, images, how many of these had to be decoded, and
    their bytes.

    Args:
        config: the sources, and how they are read.
        world: the tiny world, if a source lies in it.
        store: where the artifact and the library's shards live.
        cluster: address of a Ray cluster; it decodes a large source if it has more CPUs than this
            process. Nothing of it shows in the artifact.

    Raises:
        ConfigError: no sources, an unknown format, two sources of one name, shares over 1.
        DataError: a missing or unreadable file, an unknown label, a source without one good row.
        ServerError: the cluster went away.
    """
    sources = named(config)
    if config.calibration + config.test >= 1:
        raise ConfigError(
            f"calibration {config.calibration} + test {config.test} leave nothing to train on"
        )
    parents = {"world": world} if world and any(map(in_world, sources.values())) else {}
    listed = cache(Folder)

    def build(folder: Path) -> dict[str, int]:
        home = store.local(world) if world and parents else None
        found = {name: located(source, home) for name, source in sources.items()}
        return build_samples(folder, config, found, store=store, listed=listed, cluster=cluster)

    return store.artifact(
        "ingest",
        VERSION,
        config=config,
        parents=parents,
        inputs=inputs(config, sources, listed=listed),
        build=build,
    )


def build_samples(
    folder: Path,
    config: IngestConfig,
    sources: Mapping[str, SourceConfig],
    *,
    store: Store,
    listed: Callable[[str], Folder] = Folder,
    cluster: str = "",
) -> dict[str, int]:
    """Read all sources into an empty folder; the files do not depend on any order of listing."""
    rejects = [REJECTS.empty_table()]
    with TemporaryFile(dir=folder) as file, TemporaryFile(dir=folder) as spill:
        rows, spool = Rows(spill), ImageSpool(image_library(store), file)
        for name, source in sources.items():
            before = len(rows)
            seen = Seen(store, listed(source.images) if source.images else None)
            origin = Origin.of(name, source, config)
            loading = Loading(source.images, config, spool, seen)
            refused = _read(origin, loading, rows=rows, cluster=cluster)
            if len(rows) == before:
                raise _empty(name, source.uri, refused)
            rejects.append(refused.table())
            say(_told(name, len(rows) - before, refused))
        images = spool.facts()
        write_parts(images, folder / "images")
        write_stream(settled(rows, images, config=config), ROWS, folder / "rows")
    rejected = pa.concat_tables(rejects).combine_chunks()
    order = [(column, "ascending") for column in REJECTS.names]
    write_parts(rejected.sort_by(order), folder / "rejects")
    return {
        "in": len(rows) + len(rejected),
        "accepted": len(rows),
        "rejected": len(rejected),
        "images": len(images),
        "decoded": spool.decoded,
        "new_bytes": spool.new_bytes,
    }


def _read(origin: Origin, loading: Loading, *, rows: Rows, cluster: str) -> Rejects:
    """Put a source's good items into rows and spool; return the others."""
    rejects, spool, seen = Rejects(origin.name), loading.spool, loading.seen
    for item in _loaded(origin.source, loading, cluster):
        if isinstance(item, RawReject):
            rejects.add(item)
            continue
        record, pictures = item
        ids = [spool.use(picture) for picture in pictures]
        rows.add(make_row(record, ids, origin=origin))
        for ref, image_id in zip(record.images, ids, strict=True):
            if ref.path is not None:
                seen.note(ref.path, image_id)
    seen.save()
    return rejects


def _loaded(
    source: SourceConfig, loading: Loading, cluster: str
) -> Iterator[tuple[RawRecord, list[Picture | str]] | RawReject]:
    """A source's items in order, each record with its images."""
    read = reader_of(source).read(source, max_bytes=loading.config.max_image_bytes)
    groups = grouped(islice(read, source.limit))
    for group, pictures in loaded(loading, groups, cluster=cluster):
        for item in group.items:
            if isinstance(item, RawReject):
                yield item
                continue
            found = [pictures[ref] for ref in item.images]
            refusal = next((p for p in found if isinstance(p, Refusal)), None)
            if refusal:
                yield RawReject(item.source_key, refusal.reason, refusal.detail)
            else:
                yield item, [p for p in found if not isinstance(p, Refusal)]


def _told(name: str, accepted: int, refused: Rejects) -> str:
    """A source in one line: in = accepted + rejected, and why."""
    why = ", ".join(f"{reason} {count}" for reason, count in refused.reasons.most_common())
    told = f"{name}: in {accepted + len(refused)}  accepted {accepted}  rejected {len(refused)}"
    return f"{told} ({why}; see rejects/)" if refused else told


def _empty(name: str, uri: str, refused: Rejects) -> DataError:
    reasons = refused.reasons.most_common(5)
    examples = [f"{r.source_key} ({r.reason}: {r.detail})" for r in refused.first]
    why = f": {dict(reasons)}, such as {'; '.join(examples)}. Correct" if refused else ". Fill"
    return DataError(
        f"empty source {name!r} ({uri}): no item accepted, {len(refused)} rejected{why} the file, "
        "or leave the source out"
    )
