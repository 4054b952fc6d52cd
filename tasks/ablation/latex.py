"""The ablation as a LaTeX table of booktabs: one row a method, over all seeds."""

from collections.abc import Sequence

from schemas.ablation import AblationRow
from schemas.report import Metric
from tasks.ablation.page import COLUMNS
from tasks.ablation.table import summary

SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def latex_table(rows: Sequence[AblationRow]) -> str:
    r"""A `tabular` to \input; it needs the package booktabs."""
    heads = [r"\shortstack{" + name.replace(" ", r"\\") + "}" for name in COLUMNS]
    lines = [
        "% needs \\usepackage{booktabs}; % of held-out items, [95 % interval]",
        rf"\begin{{tabular}}{{l{'r' * len(COLUMNS)}}}",
        r"\toprule",
        " & ".join(["method", *heads]) + r" \\",
        r"\midrule",
        *map(_line, summary(rows)),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _line(row: AblationRow) -> str:
    name = escaped(row.method)
    if row.error:
        return rf"{name} & \multicolumn{{{len(COLUMNS)}}}{{l}}{{failed}} \\"
    return " & ".join([name, *(_cell(row.metrics[key]) for key in COLUMNS.values())]) + r" \\"


def _cell(metric: Metric) -> str:
    if not metric.n:
        return "--"
    low, high = 100 * metric.low, 100 * metric.high
    return f"{100 * metric.value:.1f} {{\\scriptsize[{low:.1f}, {high:.1f}]}}"


def escaped(text: str) -> str:
    """Text that LaTeX prints as it stands."""
    return "".join(SPECIAL.get(sign, sign) for sign in text)
