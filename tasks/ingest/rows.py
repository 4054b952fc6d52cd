"""A record -> a row of ROWS: its label mapped, its split set, its identity computed."""

from dataclasses import dataclass
from hashlib import sha256
from json import dumps
from typing import Any

import pyarrow as pa

from schemas.config import IngestConfig, SourceConfig
from schemas.errors import DataError
from schemas.samples import ROWS, SPLITS, RawRecord, sample_id
from schemas.taxonomy import LabelMapping, Taxonomy, load_mapping, load_taxonomy, map_label
from tasks.sources import reader_of

ROWS_PER_TABLE = 8_192


@dataclass(frozen=True)
class Origin:
    """A source with everything that turns its records into rows."""

    name: str
    source: SourceConfig
    mapping: LabelMapping
    taxonomy: Taxonomy

    @classmethod
    def of(cls, name: str, source: SourceConfig, config: IngestConfig) -> "Origin":
        """Load the mapping (the format's own unless the source names one) and the taxonomy."""
        mapping = load_mapping(source.labels or reader_of(source).labels)
        return cls(name, source, mapping, load_taxonomy(config.taxonomy))


class Rows:
    """Rows in Arrow's compact form, for they may be millions."""

    def __init__(self) -> None:
        self._tables: list[pa.Table] = [ROWS.empty_table()]
        self._fresh: list[dict[str, Any]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, row: dict[str, Any]) -> None:
        """Append one row; keys are those of ROWS."""
        self._fresh.append(row)
        self._count += 1
        if len(self._fresh) == ROWS_PER_TABLE:
            self._flush()

    def table(self) -> pa.Table:
        """All rows, sorted by sample_id."""
        self._flush()
        return pa.concat_tables(self._tables).sort_by("sample_id")

    def _flush(self) -> None:
        self._tables.append(pa.Table.from_pylist(self._fresh, ROWS))
        self._fresh = []


def make_row(
    record: RawRecord, image_ids: list[str], *, origin: Origin, config: IngestConfig
) -> dict[str, Any]:
    """One row. DataError, naming file, row and value, for an unknown label, level or split."""
    where = f"source {origin.name!r}, {record.source_key}"
    risk_type, risk_level = map_label(
        record.label, record.level, mapping=origin.mapping, taxonomy=origin.taxonomy, where=where
    )
    if record.split is not None and record.split not in SPLITS:
        raise DataError(f"{where}: unknown split {record.split!r}; known: {', '.join(SPLITS)}")
    own = sample_id(origin.name, record.source_key, record.messages, image_ids)
    group = image_ids[0] if image_ids else own
    split = assign_split(record.split or origin.source.split, group, config=config)
    answered = any(m.role == "assistant" and m.text for m in record.messages)
    return {
        "sample_id": own,
        "image_ids": image_ids,
        "source": origin.name,
        "source_key": record.source_key,
        "split": split,
        "messages": [{"role": m.role, "text": m.text} for m in record.messages],
        "risk_type": risk_type,
        "risk_level": risk_level,
        "supervises": "evaluation" if split == "test" else "both" if answered else "concept",
        "language": record.language,
        "licence": record.licence or origin.source.licence,
        "group_id": group,
        "extra": dumps(record.extra, sort_keys=True, ensure_ascii=False),
    }


def assign_split(stated: str | None, group_id: str, *, config: IngestConfig) -> str:
    """The split of an image group: hashed, so that all items of an image share it.

    A stated train split gives its share to calibration too: without one no threshold could be set.
    """
    if stated in ("calibration", "test"):
        return stated
    digest = sha256(f"{config.seed}:{group_id}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < config.calibration:
        return "calibration"
    free = stated is None and place < config.calibration + config.test
    return "test" if free else "train"
