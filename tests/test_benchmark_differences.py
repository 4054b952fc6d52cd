"""A benchmark's differences between two models: item by item, against numbers by hand."""

import pytest

from infra.completion import FILTERED
from tasks.benchmarks.item import Measure
from tasks.promote.paired import tango
from tasks.report.differences import differences, image_clusters

DRAWS = {"draws": 200, "seed": 0}
REFUSED = Measure("refused", lambda row: row["refused"])
WHOLE = Measure("acc_plus", lambda row: row["right"], "all")
GRADE = Measure("grade", lambda row: row["score"], "mean")


def row(number: int, *, group: str = "", **facts) -> dict:
    told = {
        "refused": None,
        "right": None,
        "score": None,
        "fault": "",
        "image_id": None,
        "whole": True,
    }
    return {"item_id": f"i{number}", "group": group or f"i{number}", **told, **facts}


def test_a_rate_is_compared_item_by_item_with_tangos_interval():
    """20 items: 8 refused by the new model alone, 2 by the old one alone."""
    old = [row(n, refused=n in (18, 19)) for n in range(20)]
    new = [row(n, refused=n < 8) for n in reversed(range(20))]
    found = differences(old, new, [REFUSED, WHOLE], **DRAWS)
    assert list(found) == ["refused"]
    metric = found["refused"]
    assert (metric.value, metric.n, metric.method) == (pytest.approx(0.3), 20, "tango")
    expected = tango(8, 2, 20, alpha=0.025, correction=0.5)
    assert (metric.low, metric.high) == pytest.approx(expected)


def test_only_items_that_both_have_answered_count():
    old = [row(0, refused=True), row(1, refused=True, fault="too long"), row(2, refused=None)]
    new = [row(0, refused=False), row(1, refused=False), row(2, refused=True), row(3, refused=True)]
    assert differences(old, new, [REFUSED], **DRAWS)["refused"].n == 1
    filtered = [row(0, refused=True, fault=FILTERED), *new[1:]]
    assert differences(old[:1], filtered, [REFUSED], **DRAWS)["refused"].value == 0.0


def test_a_rate_of_groups_counts_a_group_where_all_its_items_do():
    """MME's acc+: of three pictures with two questions the new model has one more whole."""
    right = {
        "old": [True, True, True, False, False, False],
        "new": [True, True, True, True, True, False],
    }
    old, new = (
        [row(n, group=f"g{n // 2}", right=hit) for n, hit in enumerate(hits)]
        for hits in right.values()
    )
    metric = differences(old, new, [WHOLE], **DRAWS)["acc_plus"]
    assert (metric.value, metric.n) == (pytest.approx(1 / 3), 3)


def test_a_group_with_a_missing_row_counts_for_neither_model():
    old = [row(n, group="g", right=True) for n in range(2)]
    new = [{**one, "whole": False} for one in old[:1]]
    assert differences(old, new, [WHOLE], **DRAWS)["acc_plus"].value == -1.0


def test_questions_about_one_image_count_as_fewer():
    """60 pictures with 6 questions: all six change together, in every fifth picture."""
    pictures = [n // 6 for n in range(360)]
    old = [row(n, refused=True, image_id=f"p{p}") for n, p in enumerate(pictures)]
    new = [row(n, refused=p % 5 != 0, image_id=f"p{p}") for n, p in enumerate(pictures)]
    apart = [{**one, "image_id": None} for one in new]
    shared = differences(old, new, [REFUSED], **DRAWS)["refused"]
    alone = differences([{**one, "image_id": None} for one in old], apart, [REFUSED], **DRAWS)
    assert shared.value == alone["refused"].value == pytest.approx(-0.2)
    assert shared.high - shared.low > 2 * (alone["refused"].high - alone["refused"].low)


def test_an_image_ties_two_groups_and_a_group_two_images():
    """Three groups of two questions; the first shares an image with the second."""
    told = [("g0", "p0"), ("g0", "p1"), ("g1", "p1"), ("g1", "p2"), ("g2", "p3"), ("g2", None)]
    rows = [row(n, group=group, image_id=image) for n, (group, image) in enumerate(told)]
    clusters = image_clusters(rows)
    assert len(set(clusters[:4])) == 1 == len(set(clusters[4:])) and clusters[0] != clusters[4]


def test_a_mean_of_grades_is_drawn_by_image():
    old = [row(n, score=float(n), image_id=f"p{n // 2}") for n in range(8)]
    new = [row(n, score=n + 1.5, image_id=f"p{n // 2}") for n in range(8)]
    metric = differences(old, new, [GRADE], **DRAWS)["grade"]
    assert (metric.value, metric.low, metric.high) == (1.5, 1.5, 1.5)
    assert (metric.n, metric.method) == (8, "bootstrap_by_image")
