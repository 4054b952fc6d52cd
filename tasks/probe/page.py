"""Probes for people: three tables, each with what it can and cannot say."""

from collections.abc import Sequence

from schemas.probe import HEAD, PROJECTOR, TOKENS, ProbeRow, of_experiment
from schemas.report import DESCRIBED, Metric
from tasks.sweep.document import Document, Section, cell

TITLE = "Probes of stage 1: what a straight line can read"
PLOT = (
    "Test images on the two axes along which training images vary most, before and after the "
    "safety projector, coloured by risk type"
)
REMARKS = {
    PROJECTOR: (
        "Does the safety projector isolate the risk? A logistic regression on the mean over an "
        "image's patches learns the risk type from training images and is asked about test images. "
        "An image has the risk of any of its rows; one that is only asked harmless things counts "
        "as clean whatever it shows, which no reading of images alone can know. "
        "The second column is how much of the variance between test images lies between types. "
        "The untrained projector tells what its shape alone does. A mean forgets where things "
        "are, so these are no upper bounds: the head looks at every patch."
    ),
    TOKENS: (
        "What do the safety tokens add to what the language model knows before it answers? The "
        "same regression reads its last state at the end of the prompt, which has a question but "
        "no hint. Static tokens stand before the image: their own states are the same for every "
        "image. Concept tokens are shown where the model's own guard acts, so they bring what the "
        "head has seen, no more."
    ),
    HEAD: (
        "The head itself on equally many test items of each type and level, so that no type is "
        "known by how often it occurs. Clean items are right where they are not flagged."
    ),
}
TITLES = {
    PROJECTOR: "Projector isolation",
    TOKENS: "Token categorisation",
    HEAD: "Head, balanced by type and level",
}


def document(rows: Sequence[ProbeRow], methods: Sequence[str]) -> Document:
    """The page: what was probed, the picture, a table an experiment."""
    told = [
        f"Stage 1 of {', '.join(methods)}; projector and head are those of {methods[0]}. All "
        "numbers are in %, with 95 % intervals (a bootstrap over images; Wilson's for the head and "
        "at 0 and 100 %). Probes learn from the training split and are judged on the test split."
    ]
    return Document(TITLE, told, PLOT, [_section(rows, name) for name in TITLES])


def _section(rows: Sequence[ProbeRow], name: str) -> Section:
    own = of_experiment(rows, name)
    measures = list(dict.fromkeys(row.measure for row in own))
    lines = []
    for what in dict.fromkeys(row.what for row in own):
        found = {row.measure: row.metric for row in own if row.what == what}
        counts = {metric.n for metric in found.values()}
        cells = [_cell(found[m]) if m in found else "-" for m in measures]
        lines.append([what, "/".join(map(str, sorted(counts))), *cells])
    return Section(TITLES[name], REMARKS[name], ["", "n", *measures], lines)


def _cell(metric: Metric) -> str:
    return f"{100 * metric.value:.1f}" if metric.method == DESCRIBED else cell(metric)
