"""What an audit says of labels: `disputed.parquet` and `sources.json` of an audit artifact."""

import pyarrow as pa

from schemas.frozen import Frozen

# A row that the head gives another type or level than its label does. Probabilities are those of
# the types, calibrated; `dispute` and `level_dispute` are log-odds of what is seen against what is
# stated, in nats, 0 where they agree.
DISPUTED = pa.schema(
    [
        ("rank", pa.int64()),
        ("sample_id", pa.string()),
        ("source", pa.string()),
        ("source_key", pa.string()),
        ("split", pa.string()),
        ("risk_type", pa.string()),
        ("risk_level", pa.int8()),
        ("seen_type", pa.string()),
        ("seen_level", pa.int8()),
        ("stated_probability", pa.float64()),
        ("seen_probability", pa.float64()),
        ("dispute", pa.float64()),
        ("level_dispute", pa.float64()),
        ("image_id", pa.string()),
    ]
)


class Kind(Frozen):
    """Disputed rows of one source by the type stated and the type seen."""

    stated: str
    seen: str
    rows: int


class SourceAudit(Frozen):
    """A source: `rows` looked at, how many have a type (`disputed`) or only a level in dispute.

    Both count from the margin on; `kinds` of the disputed types, the most frequent first.
    """

    source: str
    rows: int
    disputed: int
    level_disputed: int
    kinds: tuple[Kind, ...]


class AuditReport(Frozen):
    """`sources.json`: the model that looked, the margin, rows left out by reason, each source."""

    model: str
    margin: float
    splits: tuple[str, ...]
    left_out: dict[str, int]
    sources: tuple[SourceAudit, ...]
