"""One rule: what is bad about a row, for DuckDB and for Great Expectations."""

from dataclasses import dataclass, field
from typing import Any, Literal

Suite = Literal["vocabulary", "cross_column", "unique"]
Action = Literal["quarantine", "clean_by_level", "concept", "report"]
Condition = tuple[str, Literal["==", "!=", ">="], str | int]


@dataclass(frozen=True)
class Rule:
    """`bad` is SQL over the facts; `detail` is SQL for what people read in the quarantine.

    `suite` is where Great Expectations checks it, `expect` its class there, `options` the class's
    arguments, `only` the conditions on the rows it looks at. `measured` is SQL for what that
    expectation counts, where this differs from `bad` (of two duplicates one is bad, and both are
    not unique). `policy` is the setting that decides on the action: rows that it sets aside are no
    faults of their source.
    """

    reason: str
    bad: str
    detail: str
    suite: Suite | None = None
    expect: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    only: tuple[Condition, ...] = ()
    measured: str = ""
    action: Action = "quarantine"
    policy: str = ""
