"""The step itself: read, decode, write. in = accepted + rejected, always."""

from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile

import pyarrow as pa

from infra.parts import write_parts
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import IngestConfig, SourceConfig
from schemas.errors import ConfigError, DataError
from schemas.samples import REJECTS, ImageRef, RawRecord, RawReject
from tasks.images import image_library
from tasks.ingest.images import Picture, Refusal, decode, fetch
from tasks.ingest.origin import in_world, inputs, located, named
from tasks.ingest.rows import Origin, Rows, make_row
from tasks.ingest.seen import Seen
from tasks.ingest.shards import ImageSpool
from tasks.ingest.splits import settled
from tasks.progress import say
from tasks.sources import reader_of
from tasks.sources.fields import printable

VERSION = 2
# Records held at once. Pillow and sha256 leave the interpreter's lock: threads decode in parallel.
BATCH = 64
BATCH_BYTES = 64_000_000
THREADS = 4
# Characters of a reject's key or detail: a hostile file would fill the memory with them.
LONGEST_FACT = 1_000

# An image that is new, or the id of one that the root has.
Loaded = tuple[RawRecord, list[Picture | str]]


def ingest(config: IngestConfig, world: Artifact | None = None, *, store: Store) -> Artifact:
    """Sources -> samples (`rows/`, `images/`, `rejects/`); the image bytes go to the library.

    Counts: in, accepted, rejected, images, how many of these had to be decoded, and
    their bytes.

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
        found = {name: located(source, home) for name, source in sources.items()}
        return build_samples(folder, config, found, store=store)

    return store.artifact(
        "ingest",
        VERSION,
        config=config,
        parents=parents,
        inputs=inputs(config, sources),
        build=build,
    )


def build_samples(
    folder: Path, config: IngestConfig, sources: Mapping[str, SourceConfig], *, store: Store
) -> dict[str, int]:
    """Read all sources into an empty folder; the files do not depend on any order of listing."""
    rows, rejects = Rows(), []
    with TemporaryFile(dir=folder) as file:
        spool = ImageSpool(image_library(store), file)
        for name, source in sources.items():
            before = len(rows)
            refused = _read(Origin.of(name, source, config), config, rows=rows, spool=spool)
            if len(rows) == before:
                raise _empty(name, source.uri, refused)
            rejects += refused
            say(_told(name, len(rows) - before, refused))
        images = spool.facts()
    write_parts(images, folder / "images")
    write_parts(settled(rows.table(), images, config=config), folder / "rows")
    order = [(column, "ascending") for column in REJECTS.names]
    write_parts(pa.Table.from_pylist(rejects, REJECTS).sort_by(order), folder / "rejects")
    counts = {"accepted": len(rows), "rejected": len(rejects), "images": images.num_rows}
    return {
        "in": len(rows) + len(rejects),
        **counts,
        "decoded": spool.decoded,
        "new_bytes": spool.new_bytes,
    }


def _read(
    origin: Origin, config: IngestConfig, *, rows: Rows, spool: ImageSpool
) -> list[dict[str, str]]:
    """Put a source's good items into rows and spool; return the others as rows of REJECTS."""
    rejects = []
    seen = Seen(spool.library.store, origin.source.images)
    for item in _loaded(origin.source, config, spool, seen):
        if isinstance(item, RawReject):
            facts = {name: printable(value[:LONGEST_FACT]) for name, value in asdict(item).items()}
            rejects.append({"source": origin.name, **facts})
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
    source: SourceConfig, config: IngestConfig, spool: ImageSpool, seen: Seen
) -> Iterator[Loaded | RawReject]:
    """A source's items in order, each record with its images."""
    read = reader_of(source).read(source, max_bytes=config.max_image_bytes)
    items = islice(read, source.limit)
    load = partial(_load, folder=source.images, config=config, spool=spool, seen=seen)
    with ThreadPoolExecutor(THREADS) as pool:
        for batch in _batches(items):
            refs = {ref for item in batch if isinstance(item, RawRecord) for ref in item.images}
            pictures = dict(zip(refs, pool.map(load, refs), strict=True))
            for item in batch:
                if isinstance(item, RawReject):
                    yield item
                    continue
                found = [pictures[ref] for ref in item.images]
                refusal = next((p for p in found if isinstance(p, Refusal)), None)
                if refusal:
                    yield RawReject(item.source_key, refusal.reason, refusal.detail)
                else:
                    yield item, [p for p in found if not isinstance(p, Refusal)]


def _batches(items: Iterator[RawRecord | RawReject]) -> Iterator[list[RawRecord | RawReject]]:
    """Items in order, a few at a time: fewer where they hold large images."""
    batch, size = [], 0
    for item in items:
        batch.append(item)
        if isinstance(item, RawRecord):
            size += sum(len(ref.data) for ref in item.images if ref.data is not None)
        if len(batch) >= BATCH or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _load(
    ref: ImageRef, *, folder: str, config: IngestConfig, spool: ImageSpool, seen: Seen
) -> Picture | str | Refusal:
    """A new image, decoded to the last pixel; the id of a known one; or why it cannot be used."""
    known = seen.image_of(ref.path) if ref.path is not None else None
    if known and spool.knows(known):
        return known
    data = fetch(ref, folder=folder, config=config)
    if isinstance(data, Refusal):
        return data
    image_id = sha256(data).hexdigest()
    if spool.knows(image_id):
        return image_id
    return decode(image_id, data, max_pixels=config.max_image_pixels)


def _told(name: str, accepted: int, refused: list[dict[str, str]]) -> str:
    """A source in one line: in = accepted + rejected, and why."""
    reasons = Counter(reject["reason"] for reject in refused).most_common()
    why = ", ".join(f"{reason} {count}" for reason, count in reasons)
    told = f"{name}: in {accepted + len(refused)}  accepted {accepted}  rejected {len(refused)}"
    return f"{told} ({why}; see rejects/)" if refused else told


def _empty(name: str, uri: str, refused: list[dict[str, str]]) -> DataError:
    reasons = Counter(reject["reason"] for reject in refused).most_common(5)
    examples = [f"{r['source_key']} ({r['reason']}: {r['detail']})" for r in refused[:3]]
    why = f": {dict(reasons)}, such as {'; '.join(examples)}. Correct" if refused else ". Fill"
    return DataError(
        f"empty source {name!r} ({uri}): no item accepted, {len(refused)} rejected{why} the file, "
        "or leave the source out"
    )
