"""Where measurements are kept: one JSON file a benchmark, so that its history is git's."""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def record(name: str, numbers: dict[str, float]) -> None:
    """Print a benchmark's numbers and write them as {name, commit, date, numbers}."""
    head = ["git", "-C", str(RESULTS.parent), "rev-parse", "--verify", "--quiet", "HEAD"]
    commit = subprocess.run(head, capture_output=True, text=True, check=False).stdout.strip()
    date = datetime.now(UTC).date().isoformat()
    entry = {"name": name, "commit": commit, "date": date, "numbers": numbers}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(entry, indent=1) + "\n")
    print(name, *(f"{key}={value:g}" for key, value in numbers.items()))
