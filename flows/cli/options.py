"""Options that several sub-commands share."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

Preset = Annotated[str, typer.Option(help="Preset: a shipped name, a .toml file or its s3:// URI.")]
Root = Annotated[str, typer.Option(help="Where artifacts go: a folder or s3://bucket/prefix.")]
Source = Annotated[
    list[str] | None,
    typer.Option(
        # Short, so that 80 columns hold the longest option's whole name.
        metavar="<str>",
        help="A data set, such as format=table,uri=my.csv. Repeatable; replaces the preset's "
        "sources.",
    ),
]
Base = Annotated[
    str, typer.Option(help="Base model: a folder, s3://bucket/folder or hub name\\[@revision].")
]
Method = Annotated[
    str, typer.Option(help="Method: a shipped variant or a .toml file; empty is the preset's own.")
]
Ratio = Annotated[
    float | None, typer.Option("--clean-per-unsafe", help="Clean items per unsafe one.")
]
Ratio2 = Annotated[
    float | None, typer.Option("--stage2-clean-per-unsafe", help="The same for stage 2.")
]
Seed = Annotated[int | None, typer.Option(help="Seed of the training order and of both stages.")]
Cluster = Annotated[
    str,
    typer.Option(
        help="A Ray cluster: host:port of its head, or http://host:8265 to submit jobs; empty is "
        "that of psavlm up, or one's own."
    ),
]
Policy = Annotated[str, typer.Option(help="An operator's policy: a shipped name or a .toml file.")]
Json = Annotated[bool, typer.Option("--json", help="One line of JSON on standard output.")]
DEFAULT_ROOT = ".psavlm/store"


NAMES = (
    "a registered model (champion, previous, a version), an artifact's address, a Hugging Face "
    "folder, https://host/v1#model, answers:FILE, or base: the other one's"
)
Items = Annotated[
    str,
    typer.Option(help="Address of a labelled snapshot; empty is what the newest model learned on."),
]


@dataclass(frozen=True)
class Choice:
    """What a run or step was asked for, as given."""

    preset: str
    root: str
    source: list[str] | None
    base: str
    method: str
    clean_per_unsafe: float | None
    stage2_clean_per_unsafe: float | None
    seed: int | None

    def parameters(self) -> dict[str, Any]:
        """The flow's parameters of the same names; ConfigError for a source that is none."""
        from tasks.sources import parse_source

        return {
            "preset": self.preset,
            "sources": tuple(parse_source(text) for text in self.source or ()),
            "base": self.base,
            "method": self.method,
            "clean_per_unsafe": self.clean_per_unsafe,
            "stage2_clean_per_unsafe": self.stage2_clean_per_unsafe,
            "seed": self.seed,
        }
