"""The formats by name. To add one: a file with `read`, and a line here."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from schemas.config import SourceConfig
from schemas.errors import ConfigError
from schemas.explain import did_you_mean
from schemas.samples import RawRecord, RawReject
from tasks.sources import llava, table, vlguard, webdataset


@dataclass(frozen=True)
class Reader:
    """`read(source, max_bytes=...)` yields items; `labels` is the mapping used by default."""

    read: Callable[..., Iterator[RawRecord | RawReject]]
    labels: str

    @property
    def example(self) -> str:
        """The example that the reader's docstring gives, as `--source` takes it."""
        return (self.read.__doc__ or "").partition("Example: ")[2].split("\n")[0]


READERS = {
    "llava": Reader(llava.read, "clean"),
    "table": Reader(table.read, "canonical"),
    "vlguard": Reader(vlguard.read, "vlguard"),
    "webdataset": Reader(webdataset.read, "canonical"),
}


def reader_of(source: SourceConfig) -> Reader:
    """The reader of a source's format; ConfigError with all formats for an unknown one."""
    if source.format not in READERS:
        hint = did_you_mean(source.format, READERS)
        raise ConfigError(f"unknown format {source.format!r}; {hint}formats: {', '.join(READERS)}")
    return READERS[source.format]
