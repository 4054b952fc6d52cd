"""Where the numbers come from, in plain rows and lines."""

from typing import Any

Row = dict[str, str]


def shared_table(origin: dict[str, Any]) -> list[Row]:
    """What the steps share: code, lock, versions, hardware and seeds."""
    rows = [("code", _code(code)) for code in origin["code"]]
    for versions in origin["versions"]:
        rows.append(("versions", f"psavlm {versions['psavlm']}, Python {versions['python']}"))
        rows.append(("lock", f"sha256 {versions['lock'] or 'not recorded'}"))
    rows += [(name, " and ".join(found)) for name, found in origin["libraries"].items()]
    rows += [("hardware", _host(host)) for host in origin["hosts"]]
    if seeds := origin["seeds"]:
        one = len(set(seeds.values())) == 1
        each = ", ".join(f"{role} {seed}" for role, seed in seeds.items())
        same = f"{next(iter(seeds.values()))} in every step that draws"
        rows.append(("seeds", same if one else each))
    return [{"what": what, "value": value} for what, value in rows]


def steps_table(origin: dict[str, Any]) -> list[Row]:
    """Each step's address and what built it."""
    return [
        {"role": step["role"], "address": f"`{step['address']}`", "commit": commit(step)}
        for step in origin["steps"]
    ]


def settings(origin: dict[str, Any]) -> list[str]:
    """Each step's config as one line of a list."""
    lines = []
    for step in (step for step in origin["steps"] if step["config"]):
        told = "; ".join(f"{name} = {value}" for name, value in flat(step["config"]))
        plain = told.replace("`", "'").replace("\n", " ")
        lines.append(f"- {step['role']}: `{plain}`")
    return lines


def commit(step: dict[str, Any]) -> str:
    """A step's commit, shortened; `+` behind it where the checkout had changes of its own."""
    if not step["commit"]:
        return "not recorded"
    return f"{step['commit'][:12]}{'+' if step['dirty'] else ''}"


def flat(value: Any, *, prefix: str = "") -> list[tuple[str, str]]:
    """Settings as (dotted name, text) pairs, for reading."""
    if isinstance(value, dict) and value:
        found = (flat(part, prefix=f"{prefix}{name}.") for name, part in value.items())
        return [pair for pairs in found for pair in pairs]
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        numbered = {str(number): part for number, part in enumerate(value)}
        return flat(numbered, prefix=prefix)
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return [(prefix.removesuffix("."), text)]


def _code(code: dict[str, Any]) -> str:
    changed = " with changes that were not committed" if code["dirty"] else ""
    return f"{code['commit'] or 'not from a git checkout'}{changed}"


def _host(host: dict[str, Any]) -> str:
    gpus = ", ".join(host["gpus"]) or "no GPU"
    return f"{host['cpus']} × {host['cpu']}, {host['memory_gib']} GiB, {gpus}"
