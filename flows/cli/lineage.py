"""`psavlm show`: what an artifact is made of, as a tree."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.options import DEFAULT_ROOT, Json, Root
from flows.cli.settings import reach
from flows.cli.terminal import console

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

    from schemas.upkeep import Ancestor, Lineage

WIDTH = 120
SHORT = 10
# A longer value says no more in a line than that it is another one.
LONGEST = 24
MOST = 6
ARTIFACT = "root/step/fingerprint, or in --root step/fingerprint or the fingerprint's beginning."
COLOURS = {"missing": "yellow", "damaged": "red"}

Name = Annotated[str, typer.Argument(help=f"An artifact: {ARTIFACT}")]


def register(app: typer.Typer) -> None:
    """Add the sub-command."""
    app.command("show", epilog="Example: psavlm show stage2/1c14 --root .psavlm/store")(show)


def show(artifact: Name, root: Root = DEFAULT_ROOT, json: Json = False) -> None:
    """Show an artifact's lineage: when, how long, from which commit, and what has changed."""
    from infra.lineage import lineage, located

    reach(root, artifact)
    told = lineage(*located(artifact, root=root))
    if json:
        sys.stdout.write(told.model_dump_json() + "\n")
        return

    terminal = console(WIDTH)
    terminal.print(_tree(told))


def _tree(told: "Lineage") -> "Tree":
    from rich.tree import Tree

    tree = Tree(_label(told, told.artifact), guide_style="dim")
    shown = {told.artifact}

    def grow(branch: "Tree", name: str) -> None:
        for role, parent in told.artifacts[name].parents.items():
            if parent in shown:
                branch.add(f"{role}: {_short(parent)} (see above)", style="dim")
                continue
            shown.add(parent)
            grow(branch.add(_label(told, parent, role=role)), parent)

    grow(tree, told.artifact)
    return tree


def _label(told: "Lineage", name: str, *, role: str = "") -> "Text":
    from rich.text import Text

    one = told.artifacts[name]
    text = Text(f"{role}: " if role else "")
    text.append(_short(name), style="bold")
    if one.state != "there":
        text.append(f"  {one.state.upper()}", style=COLOURS[one.state])
        text.append(f" {one.why}" if one.why else "")
    if one.created:
        text.append(f"  {_origin(one)}")
        text.append(f"\n{_made(one)}", style="dim")
    if one.against and one.changes:
        text.append(f"\nagainst {_short(one.against)}: {changes(one.changes)}", style="dim")
    return text


def _origin(one: "Ancestor") -> str:
    """When, how long, from which commit."""
    from flows.cli.plan import duration

    words = [one.created[:16].replace("T", " ")]
    if one.seconds is not None:
        words.append(duration(one.seconds))
    if one.commit:
        words.append(f"commit {one.commit[:SHORT]}" + (" and changes" if one.dirty else ""))
    return ", ".join(words)


def _made(one: "Ancestor") -> str:
    from flows.cli.plan import size
    from flows.told import counted

    files = f"{one.files} file{'s' * (one.files != 1)}, {size(one.bytes)}"
    return "  ".join(filter(None, [files, counted(one.counts)]))


def changes(found: dict[str, tuple[Any, Any]]) -> str:
    """Settings with their values, the rest by name alone."""
    words = [_change(name, *values) for name, values in found.items()]
    more = f", and {len(words) - MOST} more" if len(words) > MOST else ""
    return ", ".join(words[:MOST]) + more


def _change(name: str, before: Any, now: Any) -> str:
    texts = ["none" if value is None else str(value) for value in (before, now)]
    if name.startswith(("parents.", "inputs.")) or max(map(len, texts)) > LONGEST:
        return name
    return f"{name} {texts[0]} → {texts[1]}"


def _short(name: str) -> str:
    step, _, fingerprint = name.partition("/")
    return f"{step} {fingerprint[:SHORT]}"
