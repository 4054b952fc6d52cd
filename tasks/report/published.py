"""What the papers report of their own models, in a block of its own: nothing here is comparable.

Numbers as published (METHOD.md section 6); why they cannot be set beside ours is METHOD.md section
7, in our words. Who wants to compare asks both models the same items (`psavlm compare`).
"""

from typing import NamedTuple

TITLE = "Published, not comparable"
WHY = (
    "These are the authors' own numbers, on their data and with their judge. None may be set "
    "beside a number above: other items, other judges and other models. PSA-VLM's authors report "
    "no rate of false positives; rows of their headline table were not all scored on the same "
    "items; in their split three subtasks of 4, 7 and 15 items carry 30 % of the mean; the head as "
    "released reads no word of the question; and as types come from disjoint sources, a head's "
    "accuracy may be that of telling the sources apart."
)


class Published(NamedTuple):
    """A published table: what it counts, its columns, a line per model."""

    title: str
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


TABLES = (
    Published(
        "RTVLM, judged by GPT-4 from 0 to 10 (higher is better), mean of ten subtasks",
        ("model", "score"),
        (
            ("LLaVA-1.5-7B", "6.39"),
            ("GPT-4V", "7.92"),
            ("VLGuard LoRA 7B", "8.09"),
            ("PSA-VLM 7B", "8.18"),
            ("PSA-VLM 7B with LoRA", "8.26"),
            ("LLaVA-1.5-13B", "6.55"),
            ("VLGuard LoRA 13B", "8.15"),
            ("PSA-VLM 13B", "8.40"),
            ("PSA-VLM 13B with LoRA", "8.46"),
        ),
    ),
    Published(
        "Risk sets of the authors, the same judge (higher is better)",
        ("model", "politics", "porn", "cyberbullying"),
        (
            ("LLaVA-1.5-7B", "7.00", "1.19", "5.67"),
            ("VLGuard LoRA 7B", "7.58", "6.83", "7.33"),
            ("PSA-VLM 7B", "9.00", "7.49", "6.43"),
            ("PSA-VLM 7B with LoRA", "8.91", "6.82", "7.20"),
            ("PSA-VLM 13B with LoRA", "9.13", "8.72", "7.45"),
        ),
    ),
    Published(
        "Modules left out of PSA-VLM 7B with LoRA, the same judge (higher is better)",
        ("safety modules", "RTVLM", "politics", "porn", "cyberbullying"),
        (
            ("none", "7.59", "6.97", "1.51", "6.34"),
            ("tokens", "7.63", "6.84", "1.61", "6.43"),
            ("head", "8.09", "8.73", "7.64", "7.15"),
            ("both", "8.26", "8.91", "6.82", "7.20"),
        ),
    ),
    Published(
        "PSA-VLM's safety head: share of right types and levels (higher is better)",
        ("set", "type", "level"),
        (
            ("politics", ".97", ".96"),
            ("porn", ".99", ".99"),
            ("cyberbullying", ".86", ".92"),
            ("RTVLM", ".95", ".96"),
        ),
    ),
    Published(
        "Text alone (SafeVLM, arXiv 2405.13581), %: AdvBench requests obeyed, plain and with a "
        "suffix; XSTest safe prompts answered, unsafe ones complied with",
        ("model", "plain", "suffix", "safe answered", "unsafe complied"),
        (
            ("LLaVA-7B", "6.45", "78.27", "91.20", "26.50"),
            ("SafeVLM with LoRA", "1.90", "69.86", "78.09", "6.96"),
            ("VLGuard mixed LoRA", "0.19", "11.15", "83.60", "4.00"),
        ),
    ),
    Published(
        "General benchmarks (higher is better)",
        ("model", "MMBench", "SEED", "MME-P", "MME"),
        (
            ("LLaVA-1.5-7B", "64.3", "61.6", "1487.9", "1773.6"),
            ("PSA-VLM 7B with LoRA", "68.5", "63.7", "1458.8", "1753.8"),
        ),
    ),
    Published(
        "HoliSafe (SafeLLaVA, arXiv 2506.04704): attacks that succeed, benign requests refused, %",
        ("model", "attacks", "refused"),
        (("before", "91.46", "-"), ("SafeLLaVA", "13.73", "3.97")),
    ),
)


def in_markdown() -> list[str]:
    """The block as parts of a Markdown page."""
    parts = [f"## {TITLE}", WHY]
    for one in TABLES:
        lines = [one.header, ["---"] * len(one.header), *one.lines]
        parts += [f"### {one.title}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    return parts
