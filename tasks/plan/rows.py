"""How many rows each step handles: counted where they are there, else worked out if possible."""

from collections.abc import Mapping
from math import floor
from pathlib import PurePosixPath
from typing import NamedTuple

from schemas.artifact import Artifact
from schemas.config import NOTHING, BalanceConfig, PipelineConfig
from tasks.balance import sides
from tasks.ingest.origin import WORLD
from tasks.tiny_world.records import count_records

# Step -> the counts of its artifact that add up to the rows it handles.
COUNTED = {
    "tiny_world": ("items",),
    "ingest": ("in",),
    "validate": ("in",),
    "balance": ("unsafe", "clean"),
    "encode": ("images",),
    "evaluate": ("items",),
}


class Rows(NamedTuple):
    """So many rows, or at most so many."""

    count: int
    at_most: bool = False


def counted(step: str, counts: Mapping[str, int]) -> int | None:
    """The rows that an artifact's step handled; None for a step without rows."""
    names = COUNTED.get(step, ())
    return sum(counts[name] for name in names) if names and counts.keys() >= set(names) else None


class Expected:
    """What is known about rows: from the config first, then from each artifact that is there."""

    def __init__(self, config: PipelineConfig) -> None:
        self.rows = of_world(config)
        self.train: tuple[int, int] | None = None  # unsafe and clean items to choose from

    def learn(self, artifact: Artifact) -> None:
        """Take in the counts of an artifact; one that is not built has none."""
        counts = artifact.counts
        if artifact.step == "ingest" and counts:
            self.rows["validate"] = Rows(counts["accepted"])
            # Rows in quarantine take their images with them.
            self.rows["encode"] = Rows(counts["images"], at_most=True)
        if artifact.step == "validate" and counts:
            self.rows["evaluate"] = Rows(counts["test_unsafe"] + counts["test_clean"])
            self.train = counts["train_unsafe"], counts["train_clean"]

    def of(self, artifact: Artifact) -> Rows | None:
        """The rows that a step handles (see `balanced`, too); None if that cannot be known yet."""
        number = counted(artifact.step, artifact.counts)
        return self.rows.get(artifact.step) if number is None else Rows(number)

    def balanced(self, config: BalanceConfig) -> tuple[Rows | None, str]:
        """The rows of an epoch, and why they cannot be drawn (empty if they can, as far as known).

        Neither which rows have an answer nor how many a source has is among the counts: with
        `with_answers_only`, `held_out` or `source_caps` it is at most.
        """
        if self.train is None:
            return (None if config.total is None else Rows(config.total)), ""
        unsafe = self.train[0]
        want = unsafe, floor(config.clean_per_unsafe * unsafe + 0.5)
        if config.total is not None:
            want = sides(config.total, config.clean_per_unsafe)
        elif config.source_caps or config.held_out != NOTHING:
            return Rows(sum(want), at_most=True), ""
        for word, asked, there in zip(("unsafe", "clean"), want, self.train, strict=True):
            if asked > there * config.max_repeat:
                return Rows(sum(want)), f"asks for {asked} {word} rows, and there are {there}"
        return Rows(sum(want), at_most=config.with_answers_only and config.total is None), ""


def of_world(config: PipelineConfig) -> dict[str, Rows]:
    """Rows by step; beyond the world itself only where every source is a whole file of it."""
    if config.world is None:
        return {}
    counts = count_records(config.world)
    known = {"tiny_world": Rows(sum(items for _, items in counts.values()))}
    read = []
    for source in config.ingest.sources:
        file = PurePosixPath(source.uri.removeprefix(WORLD))
        key = file.parent.name, file.stem.partition("-")[0]
        if (
            not source.uri.startswith(WORLD)
            or key not in counts
            or source.limit
            or not source.split
        ):
            return known
        read.append((source.split, *counts[key]))
    # Nothing of the world is refused by ingest; what validate does is not foreseen.
    total = sum(items for _, _, items in read)
    return known | {
        "ingest": Rows(total),
        "validate": Rows(total, at_most=True),
        "encode": Rows(sum(pictures for _, pictures, _ in read), at_most=True),
        "evaluate": Rows(sum(n for split, _, n in read if split == "test"), at_most=True),
    }
