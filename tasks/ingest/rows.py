"""A record -> a row of ROWS: its label mapped, its identity computed."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from json import dumps
from typing import Any, BinaryIO

import pyarrow as pa

from infra.spill import Spill
from schemas.config import IngestConfig, SourceConfig
from schemas.errors import DataError
from schemas.mapping import LabelMapping, load_mapping, map_label
from schemas.samples import REJECTS, ROWS, SPLITS, RawRecord, RawReject, sample_id
from schemas.taxonomy import Taxonomy, load_taxonomy
from tasks.sources import reader_of
from tasks.sources.fields import printable

ROWS_PER_TABLE = 4_096
# Characters: rows may be books.
TEXT_PER_TABLE = 16_000_000
# Characters of a reject's key or detail: a hostile file would fill the memory with them.
LONGEST_FACT = 1_000
FIRST = 3


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
    """Rows on their way to the snapshot: a few in memory, the others in a temporary file."""

    def __init__(self, file: BinaryIO) -> None:
        self._spill = Spill(ROWS, by="sample_id", file=file)
        self._fresh: list[dict[str, Any]] = []
        self._size = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, row: dict[str, Any]) -> None:
        """Append one row; keys are those of ROWS."""
        self._fresh.append(row)
        self._count += 1
        self._size += len(row["extra"]) + sum(len(turn["text"]) for turn in row["messages"])
        if len(self._fresh) == ROWS_PER_TABLE or self._size >= TEXT_PER_TABLE:
            self._flush()

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All rows by sample_id in tables that fit into memory; some columns, in no order."""
        self._flush()
        yield from self._spill.tables(columns)

    def _flush(self) -> None:
        self._spill.add(pa.Table.from_pylist(self._fresh, ROWS))
        self._fresh, self._size = [], 0


class Rejects:
    """What was refused of a source, compact, for it may be all.

    Attributes:
        reasons: how many for which reason.
        first: the first few, for people.
    """

    def __init__(self, source: str) -> None:
        self.reasons: Counter[str] = Counter()
        self.first: list[RawReject] = []
        self._source = source
        self._fresh: list[dict[str, str]] = []
        self._tables: list[pa.Table] = []

    def __len__(self) -> int:
        return self.reasons.total()

    def add(self, reject: RawReject) -> None:
        """Append one."""
        facts = {name: printable(value[:LONGEST_FACT]) for name, value in asdict(reject).items()}
        self.reasons[reject.reason] += 1
        if len(self.first) < FIRST:
            self.first.append(RawReject(**facts))
        self._fresh.append({"source": self._source, **facts})
        if len(self._fresh) == ROWS_PER_TABLE:
            self._flush()

    def table(self) -> pa.Table:
        """All as rows of REJECTS."""
        self._flush()
        return pa.concat_tables(self._tables)

    def _flush(self) -> None:
        self._tables.append(pa.Table.from_pylist(self._fresh, REJECTS))
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
