"""A record -> a row of ROWS: its label mapped, its identity computed."""

from dataclasses import dataclass
from json import dumps
from typing import Any

import pyarrow as pa

from schemas.config import IngestConfig, SourceConfig
from schemas.errors import DataError
from schemas.samples import ROWS, SPLITS, RawRecord, sample_id
from schemas.taxonomy import LabelMapping, Taxonomy, load_mapping, load_taxonomy, map_label
from tasks.sources import reader_of
from tasks.sources.fields import printable

ROWS_PER_TABLE = 8_192


@dataclass(frozen=True)
class Origin:
    """A source with everything that turns its records into rows."""

    name: str
    source: SourceConfig
    mapping: LabelMapping
    taxonomy: Taxonomy

    @property
    def licence(self) -> str:
        """The source's own, else the one that its format is known to have."""
        return self.source.licence or reader_of(self.source).licence

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


def make_row(record: RawRecord, image_ids: list[str], *, origin: Origin) -> dict[str, Any]:
    """One row, whose group is not known yet and whose split is the stated one, if any.

    Raises:
        DataError: an unknown label, level or split; it names file, row and value.
    """
    where = f"source {origin.name!r}, {record.source_key}"
    (risk_type, risk_level), *others = _risks(record, origin, where)
    if record.split is not None and record.split not in SPLITS:
        raise DataError(
            f"{where}: unknown split {record.split!r}; known: {', '.join(SPLITS)}. "
            "Write one of these, or leave the column out (columns.split=) to have rows drawn"
        )
    stated = origin.source.split
    if record.split and stated and record.split != stated:
        raise DataError(
            f"{where}: its split is {record.split!r}, and the source says split={stated}; leave "
            "out the one or the other (columns.split= without a name leaves out the column)"
        )
    extra = {**record.extra, **({"other_risks": others} if others else {})}
    answered = any(m.role == "assistant" and m.text for m in record.messages)
    return {
        "sample_id": sample_id(origin.name, record.source_key, record.messages, image_ids),
        "image_ids": image_ids,
        "source": origin.name,
        "source_key": record.source_key,
        "split": record.split or stated,
        "messages": [{"role": m.role, "text": m.text} for m in record.messages],
        "risk_type": risk_type,
        "risk_level": risk_level,
        "supervises": "both" if answered else "concept",
        "language": record.language,
        "licence": record.licence or origin.licence,
        "slices": sorted(record.slices.items()),
        "extra": printable(dumps(extra, sort_keys=True, ensure_ascii=False)),
    }


def _risks(record: RawRecord, origin: Origin, where: str) -> list[tuple[str, int]]:
    """Type and level of each label, the gravest first; of two alike the first named."""
    found = [
        map_label(
            label, record.level, mapping=origin.mapping, taxonomy=origin.taxonomy, where=where
        )
        for label in (record.label, *record.also)
    ]
    return sorted(dict.fromkeys(found), key=lambda risk: -risk[1])
