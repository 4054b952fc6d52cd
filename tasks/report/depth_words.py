""" "Safety in depth" as Markdown tables."""

from typing import Any

from tasks.report.words import ATTACKED, arm_name, interval

Row = dict[str, str]


def trade_table(depth: dict[str, Any]) -> list[Row]:
    """Misses at each false-positive budget, and as the guard is set."""
    trade = depth["trade"]
    points = [(f"at most {100 * one['budget']:g} %", one) for one in trade["budgets"]]
    return [
        {
            "clean items that may be flagged": name,
            "flagged": interval(one["flagged"]),
            "risky ones missed": interval(one["missed"]),
        }
        for name, one in [*points, ("as the guard is set", trade["used"])]
    ]


def errors_table(depth: dict[str, Any]) -> list[Row]:
    """By risk type what clean items are accused of, and what is missed."""
    return [
        {
            "risk type": row["type"] or "all",
            "ordinary, flagged as it": interval(row["clean_flagged"]),
            "near miss, flagged as it": interval(row["near_flagged"]),
            "risky of it, missed": interval(row["missed"]),
        }
        for row in depth["errors"]
    ]


def slices_table(depth: dict[str, Any]) -> list[Row]:
    """A row per value of each slice."""
    return [
        {
            "slice": f"{row['by']} {row['value']}",
            "risky": str(row["obeyed"]["n"]),
            "obeyed": interval(row["obeyed"]),
            "missed": interval(row["missed"]),
            "clean": str(row["refused"]["n"]),
            "refused": interval(row["refused"]),
            "flagged": interval(row["flagged"]),
        }
        for row in depth["slices"]
    ]


def attack_table(attack: dict[str, Any]) -> list[Row]:
    """A row per attack and budget on the risky items of all types."""
    goals = list(attack["rows"][0]["metrics"])
    return [
        {
            "attack": row["attack"],
            "budget in 1/255": str(row["eps"] or "-"),
            **{ATTACKED[goal]: interval(row["metrics"][goal]) for goal in goals},
        }
        for row in attack["rows"]
        if row["risky"] and not row["type"]
    ]


def headings(numbers: dict[str, Any]) -> list[tuple[str, str, list[Row]]]:
    """Title, sentence and table of each part that the numbers have."""
    found: list[tuple[str, str, list[Row]]] = []
    if depth := numbers.get("depth", {}):
        arm = arm_name(depth["arm"])
        if "trade" in depth:
            auroc, ece = depth["trade"]["auroc"]["value"], depth["calibration"]["ece"]["value"]
            told = f"AUROC {auroc:.3f}, expected calibration error {100 * ece:.1f} points."
            found.append((f"Misses at a false-positive budget ({arm})", told, trade_table(depth)))
            found.append((f"Errors by risk type ({arm})", "", errors_table(depth)))
        if rows := slices_table(depth):
            found.append((f"By slice ({arm})", "", rows))
    if attack := numbers.get("attack", {}):
        checks = (f"{'yes' if c['passed'] else 'NO'}, {c['name']}" for c in attack["checks"])
        told = f"Can these attacks be believed? {'; '.join(checks)}."
        found.append(("Under attack, risky items", told, attack_table(attack)))
    return found
