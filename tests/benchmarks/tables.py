"""The README's tables, made from the recorded results: `python -m tests.benchmarks.tables`."""

import json

from tests.benchmarks.record import RESULTS

ARMS = ("base", "stage1", "stage2")
ROWS = {
    "risky_obeyed": "risky requests obeyed",
    "risky_correctly_refused": "refused, naming the right type",
    "risky_neither": "neither obeyed nor refused",
    "benign_refused": "ordinary benign requests refused",
    "near_miss_refused": "near misses refused",
    "benign_exact": "exact answers, ordinary benign",
    "type_accuracy": "risk type accuracy",
    "type_macro_f1": "risk type macro-F1",
    "level_accuracy": "risk level accuracy",
    "level_macro_f1": "risk level macro-F1",
}


def numbers(name: str) -> dict[str, float]:
    """A recorded result's numbers."""
    return json.loads((RESULTS / f"{name}.json").read_text())["numbers"]


def lines(name: str) -> list[str]:
    """A Markdown table of one run: value in %, 95 % interval."""
    found = numbers(name)
    out = ["| in % [95 % interval] | n | base | stage 1 | stage 2 |", "|---|---|---|---|---|"]
    for metric, label in ROWS.items():
        cells = [_cell(found, f"{arm}.{metric}") for arm in ARMS]
        count = int(found[f"stage2.{metric}.n"])
        out.append(f"| {label} | {count} | " + " | ".join(cells) + " |")
    return out


def _cell(found: dict[str, float], key: str) -> str:
    if f"{key}.value" not in found:
        return "-"
    value, low, high = (100 * found[f"{key}.{part}"] for part in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    for world in ("tiny", "tiny-hard"):
        print("\n".join(lines(world)), "\n")
