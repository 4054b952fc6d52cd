"""The formats by name: code readers here, formats that need no code in schemas/formats/*.toml.

To add a format: if a table-like reader can read it, a TOML file in schemas/formats/ is enough;
else a file in this folder with `read(source, *, max_bytes)`, and a line in READERS.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from infra.places import Found, expand
from schemas.config import SourceConfig
from schemas.errors import ConfigError
from schemas.explain import did_you_mean
from schemas.formats import Format, load_format
from schemas.samples import RawRecord, RawReject
from schemas.shipped import shipped
from tasks.sources import (
    figstep,
    hf_parquet,
    img2dataset,
    llava,
    mm_safetybench,
    mossbench,
    psa_vlm,
    rtvlm,
    table,
    vlguard,
    webdataset,
    xstest,
)


def named_files(source: SourceConfig) -> list[Found]:
    """The files that `uri` itself names."""
    return expand(source.uri)


@dataclass(frozen=True)
class Reader:
    """`read(source, max_bytes=...)` yields items; `labels` is the mapping used by default.

    `licence` is that of a source which names none ("" if its authors state none). What is
    `evaluation_only` may not train. `files` lists all that `read` opens, images by path apart.
    `form` is the file that describes a format without code.
    """

    read: Callable[..., Iterator[RawRecord | RawReject]]
    labels: str
    licence: str = ""
    evaluation_only: bool = False
    files: Callable[[SourceConfig], list[Found]] = named_files
    form: Format | None = None

    @property
    def about(self) -> str:
        """What it reads: the note of its file, or the first sentence of the reader's docstring."""
        if self.form:
            return self.form.note
        told = " ".join((self.read.__doc__ or "").partition("Example: ")[0].split())
        return told.partition(". ")[0].rstrip(".")

    @property
    def example(self) -> str:
        """One example as `--source` takes it: its file's, or that of the reader's docstring."""
        if self.form:
            return self.form.example
        return (self.read.__doc__ or "").partition("Example: ")[2].split("\n")[0]


READERS = {
    "figstep": Reader(figstep.read, "figstep", "MIT"),
    "hf-parquet": Reader(hf_parquet.read, "canonical", files=hf_parquet.files),
    "img2dataset": Reader(img2dataset.read, "canonical", files=img2dataset.files),
    "llava": Reader(llava.read, "clean"),
    "mm-safetybench": Reader(mm_safetybench.read, "mm-safetybench", "CC-BY-NC-4.0"),
    "mossbench": Reader(mossbench.read, "mossbench", "CC-BY-SA-4.0", evaluation_only=True),
    "psa-vlm": Reader(psa_vlm.read, "psa-vlm"),
    "rtvlm": Reader(rtvlm.read, "rtvlm"),
    "table": Reader(table.read, "canonical"),
    "vlguard": Reader(vlguard.read, "vlguard"),
    "webdataset": Reader(webdataset.read, "canonical"),
    "xstest": Reader(xstest.read, "xstest", "CC-BY-4.0"),
}

# Readers that know nothing of tasks/sources/layout.py.
OWN_FIELDS = (
    "figstep", "llava", "mm-safetybench", "mossbench", "psa-vlm", "rtvlm", "vlguard", "xstest",
)  # fmt: skip


def formats() -> list[str]:
    """Names of all shipped formats, with and without code."""
    return sorted([*READERS, *shipped("formats")])


def reader_of(source: SourceConfig) -> Reader:
    """The reader of a source's format; ConfigError with all formats for an unknown one."""
    return reader_named(source.format)


def reader_named(name: str) -> Reader:
    """The reader of a format by name, or by the path of one's own format file (.toml).

    Raises:
        ConfigError: an unknown name, or a format file that is wrong.
    """
    if name in READERS:
        return READERS[name]
    if not name.endswith(".toml") and name not in formats():
        hint = did_you_mean(name, formats())
        raise ConfigError(
            f"unknown format {name!r}; {hint}formats: {', '.join(formats())}, or the path of a "
            "format file (.toml)"
        )
    form = load_format(name)
    base = READERS[form.reader]
    return Reader(base.read, form.labels, form.licence, form.evaluation_only, base.files, form)


def check_use(source: SourceConfig) -> None:
    """Whether a format can do what its source asks of it.

    Raises:
        ConfigError: columns or constants for a format that has fields of its own; training on what
            its authors allow for evaluation only.
    """
    reader = reader_of(source)
    if (source.columns or source.constants) and source.format in OWN_FIELDS:
        asked = "columns" if source.columns else "constants"
        raise ConfigError(
            f"source {source.uri!r}: {source.format} has fields of its own and takes no {asked}.*; "
            "leave them out (labels= and split= say what its rows are)"
        )
    if reader.evaluation_only and source.split != "test":
        raise ConfigError(
            f"source {source.uri!r}: {source.format} is for evaluation only by its licence "
            f"({reader.licence or 'of its authors'}), and split is {source.split or 'not given'}; "
            "add split=test"
        )
