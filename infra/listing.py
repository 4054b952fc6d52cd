"""A root's listing by what it tells of: artifacts, and what lies in them."""

from infra.found import Found
from infra.lineage import is_artifact

Tree = dict[str, Found]


def homes(found: Tree) -> dict[str, Tree]:
    """`step/fingerprint` -> what is in it; a local folder is in itself by the name ""."""
    there: dict[str, Tree] = {}
    for path, one in found.items():
        step, _, rest = path.partition("/")
        name, _, inside = rest.partition("/")
        home = f"{step}/{name}"
        if home in there or is_artifact(home):
            there.setdefault(home, {})[inside] = one
    return there


def below(found: Tree, folder: str) -> Tree:
    """What lies below a folder, by its path from there."""
    start = f"{folder}/"
    return {path.removeprefix(start): one for path, one in found.items() if path.startswith(start)}


def by_first(tree: Tree, *, below: str = "") -> dict[str, Tree]:
    """What lies below a folder, by the first part of the path."""
    parts: dict[str, Tree] = {}
    for path, found in tree.items():
        if path.startswith(below) and (first := path.removeprefix(below).partition("/")[0]):
            parts.setdefault(first, {})[path] = found
    return parts
