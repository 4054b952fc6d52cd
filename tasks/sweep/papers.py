"""The sweep that the authors of PSA-VLM report (METHOD.md section 5), as they report it [P].

Stage 1 of LLaVA-1.5-7B with about 11,000 risky items and a growing number of clean ones, scored on
general benchmarks. They give neither how often risky requests are obeyed nor how often benign ones
are refused, and more clean items also mean more training: nothing here can be set beside a sweep
of ours.
"""

RISKY = 11_000
BENCHMARKS = ("MMBench", "SEED", "MME-P", "MME")
# Clean items -> scores, in the order of BENCHMARKS; higher is better.
SCORES = {
    1_000: (66.7, 62.56, 1141.7, 1326.4),
    3_000: (66.8, 65.28, 1268.7, 1470.7),
    5_000: (68.3, 64.51, 1318.7, 1520.6),
    10_000: (69.0, 65.05, 1367.5, 1602.7),
    20_000: (69.6, 65.39, 1411.6, 1663.4),
    40_000: (70.0, 65.17, 1430.8, 1668.6),
}
REMARK = (
    "Not comparable with the table above: another model and other data, general benchmarks in "
    "place of obeyed and refused requests, and a training that grows with the ratio. The authors "
    "remark that the head's accuracy is best near 3,000 clean items and falls above it."
)


def papers_rows() -> list[list[str]]:
    """Clean items, clean per unsafe, and the scores, as cells."""
    return [
        [f"{clean:,}", f"{clean / RISKY:.2g}", *(f"{score:g}" for score in scores)]
        for clean, scores in SCORES.items()
    ]
