"""Decisions and versions as tables for people."""

from collections.abc import Collection, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from flows.cli.terminal import console
from schemas.decision import Check, Decision, ModelRef, Version

TABLE_WIDTH = 120
# A model's fingerprint as people compare it; the whole one is in --json.
SHORT = 10
VERDICT = {True: "yes", False: "NO", None: "not judged"}


def show(versions: Sequence[Version], decisions: Sequence[Decision], root: str) -> None:
    """All versions, then all decisions of a root."""
    terminal = console(TABLE_WIDTH)
    if not versions and not decisions:
        terminal.print("no model is registered yet: psavlm run and psavlm promote do it")
        return
    table = _table("models", "version", "aliases", "model", "registered", "address")
    for version in versions:
        model = f"{version.step} {version.fingerprint[:SHORT]}"
        aliases = ", ".join(version.aliases)
        table.add_row(str(version.version), aliases, model, _when(version.created), version.uri)
    terminal.print(table)
    if not decisions:
        terminal.print(f"no decisions in {root}", soft_wrap=True)
        return
    table = _table("decisions", "no.", "time", "what", "candidate", "against", "why")
    for one in decisions:
        against = f"{one.opponent} {_model(one.reference)}"
        why = one.reasons[0] + (f" and {len(one.reasons) - 1} more" if len(one.reasons) > 1 else "")
        what, candidate = one.action.replace("_", " "), _model(one.candidate)
        table.add_row(str(one.number), _when(one.time), what, candidate, against, why)
    terminal.print(table)


def show_one(decision: Decision) -> None:
    """A decision with its evidence."""
    terminal = console(TABLE_WIDTH)
    if decision.checks:
        title = f"candidate against {decision.opponent}, in %"
        table = _table(title, "rate", "n", "candidate", "other", "difference", "bar", "holds")
        parts = {check.part for check in decision.checks}
        shown = "all" if "all" in parts else "open"
        for check in (check for check in decision.checks if check.part == shown):
            table.add_row(*_cells(check))
        terminal.print(table)
        terminal.print(_told(decision, parts - {shown}), soft_wrap=True)
    number = "dry run" if decision.number is None else f"decision {decision.number}"
    repeated = ", as before" if decision.repeated else ""
    action = decision.action.replace("_", " ")
    terminal.print(f"{number}{repeated}: {action} {_model(decision.candidate)}", soft_wrap=True)
    for reason in decision.reasons:
        terminal.print(f"  {reason}", soft_wrap=True)


def _told(decision: Decision, parts: Collection[str]) -> str:
    """Which look it was, and what the parts of the items say that are not in the table."""
    if decision.look is None:  # from before there were looks
        return ""
    told = f"look {decision.look} at these items, held at alpha {decision.alpha:.2g}"
    if all(check.part == "open" for check in decision.checks):
        told += "; the open ones were enough to refuse, the others were not looked at"
    for part in sorted(parts):
        found = [check.passed for check in decision.checks if check.part == part]
        told += (
            f"; {sum(map(bool, found))} of {len(found)} conditions hold on the {part} ones alone"
        )
    return told


def _cells(check: Check) -> tuple[str, ...]:
    difference = f"{100 * check.difference:+.1f} [{100 * check.low:+.1f}, {100 * check.high:+.1f}]"
    bar = f"p {check.p:.2g} <= {check.bar:g}" if check.p is not None else f"{100 * check.bar:+.1f}"
    rates = (f"{100 * rate.value:.1f}" for rate in (check.candidate, check.reference))
    return check.name, str(check.n), *rates, difference, bar, VERDICT[check.passed]


def _when(time: str) -> str:
    """Day and minute; the whole time, UTC, is in --json."""
    return time[:16].replace("T", " ")


def _model(model: ModelRef) -> str:
    version = f"version {model.version}, " if model.version is not None else ""
    return f"{version}{model.step} {model.fingerprint[:SHORT]}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
