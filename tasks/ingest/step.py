"""The step itself: read, decode, write. in = accepted + rejected, always."""

from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile

import pyarrow as pa

from infra.parts import write_parts
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import IngestConfig, SourceConfig
from schemas.errors import ConfigError, DataError
from schemas.samples import REJECTS, RawRecord, RawReject
from tasks.ingest.images import Picture, Refusal, load
from tasks.ingest.origin import in_world, inputs, located, named
from tasks.ingest.rows import Origin, Rows, make_row
from tasks.ingest.shards import ImageSpool
from tasks.sources import reader_of

VERSION = 1
# Records held at once. Pillow and sha256 leave the interpreter's lock: threads decode in parallel.
BATCH = 64
THREADS = 4

Loaded = tuple[RawRecord, list[Picture]]


def ingest(config: IngestConfig, world: Artifact | None = None, *, store: Store) -> Artifact:
    """Sources -> samples (`rows/`, `images/`, `rejects/`); counts in, accepted, rejected, images.

    Raises:
        ConfigError: no sources, an unknown format, two sources of one name, shares over 1.
        DataError: a missing or unreadable file, an unknown label, a source without one good row.
    """
    sources = named(config)
    if config.calibration + config.test >= 1:
        raise ConfigError(
            f"calibration {config.calibration} + test {config.test} leave nothing to train on"
        )
    parents = {"world": world} if world and any(map(in_world, sources.values())) else {}

    def build(folder: Path) -> dict[str, int]:
        home = store.local(world) if world and parents else None
        return build_samples(folder, config, {n: located(s, home) for n, s in sources.items()})

    return store.artifact(
        "ingest",
        VERSION,
        config=config,
        parents=parents,
        inputs=inputs(config, sources),
        build=build,
    )


def build_samples(
    folder: Path, config: IngestConfig, sources: Mapping[str, SourceConfig]
) -> dict[str, int]:
    """Read all sources into an empty folder; the files do not depend on any order of listing."""
    rows, rejects = Rows(), []
    with TemporaryFile(dir=folder) as file:
        spool = ImageSpool(file)
        for name, source in sources.items():
            before = len(rows)
            refused = _read(Origin.of(name, source, config), config, rows=rows, spool=spool)
            if len(rows) == before:
                raise _empty(name, source.uri, refused)
            rejects += refused
        spool.write(folder / "images")
    write_parts(rows.table(), folder / "rows")
    order = [(column, "ascending") for column in REJECTS.names]
    write_parts(pa.Table.from_pylist(rejects, REJECTS).sort_by(order), folder / "rejects")
    counts = {"accepted": len(rows), "rejected": len(rejects), "images": len(spool)}
    return {"in": len(rows) + len(rejects), **counts}


def _read(
    origin: Origin, config: IngestConfig, *, rows: Rows, spool: ImageSpool
) -> list[dict[str, str]]:
    """Put a source's good items into rows and spool; return the others as rows of REJECTS."""
    rejects = []
    for item in _loaded(origin.source, config):
        if isinstance(item, RawReject):
            rejects.append({"source": origin.name, **asdict(item)})
            continue
        record, pictures = item
        ids = [picture.image_id for picture in pictures]
        rows.add(make_row(record, ids, origin=origin, config=config))
        for picture in pictures:
            spool.add(picture)
    return rejects


def _loaded(source: SourceConfig, config: IngestConfig) -> Iterator[Loaded | RawReject]:
    """A source's items in order, each record with its decoded images."""
    read = reader_of(source).read(source, max_bytes=config.max_image_bytes)
    items = islice(read, source.limit)
    fetch = partial(load, folder=source.images, config=config)
    with ThreadPoolExecutor(THREADS) as pool:
        while batch := list(islice(items, BATCH)):
            refs = {ref for item in batch if isinstance(item, RawRecord) for ref in item.images}
            pictures = dict(zip(refs, pool.map(fetch, refs), strict=True))
            for item in batch:
                if isinstance(item, RawReject):
                    yield item
                    continue
                found = [pictures[ref] for ref in item.images]
                refusal = next((p for p in found if isinstance(p, Refusal)), None)
                if refusal:
                    yield RawReject(item.source_key, refusal.reason, refusal.detail)
                else:
                    yield item, [p for p in found if isinstance(p, Picture)]


def _empty(name: str, uri: str, refused: list[dict[str, str]]) -> DataError:
    reasons = Counter(reject["reason"] for reject in refused).most_common(5)
    examples = [f"{r['source_key']} ({r['reason']}: {r['detail']})" for r in refused[:3]]
    why = f": {dict(reasons)}, such as {'; '.join(examples)}. Correct" if refused else ". Fill"
    return DataError(
        f"empty source {name!r} ({uri}): no item accepted, {len(refused)} rejected{why} the file, "
        "or leave the source out"
    )
