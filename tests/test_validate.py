"""Validation: every rule finds its row, both engines agree, and nothing bad passes unsaid."""

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pytest

from infra.parts import read_parts, write_parts
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import ValidateConfig
from schemas.errors import ConfigError, DataError
from schemas.policy import refusal_pattern
from schemas.samples import REJECTS, ROWS
from schemas.taxonomy import load_taxonomy
from tasks.validate import VERSION, build_labelled, validate
from tasks.validate.docs import check
from tasks.validate.facts import examine
from tasks.validate.rules import rules
from tasks.validate.step import QUARANTINE

REFUSAL = "Sorry, no."


def row(number: int, **changes) -> dict:
    """A clean, valid training row; `q` and `a` set its two turns."""
    question, answer = changes.pop("q", f"question {number}"), changes.pop("a", f"answer {number}")
    turns = [{"role": "user", "text": question}]
    turns += [{"role": "assistant", "text": answer}] if answer is not None else []
    return {
        "sample_id": f"{number:04d}",
        "image_ids": [f"image {number}"],
        "source": "s",
        "source_key": f"s.json:{number}",
        "split": "train",
        "messages": turns,
        "risk_type": "clean",
        "risk_level": 0,
        "supervises": "both" if answer is not None else "concept",
        "language": "",
        "licence": "",
        "group_id": f"image {number}",
        "extra": "{}",
        **changes,
    }


def risky(number: int, **changes) -> dict:
    return row(number, **{"risk_type": "privacy", "risk_level": 2, "a": REFUSAL, **changes})


def samples(folder: Path, rows: list[dict], rejects: list[dict] | None = None) -> Path:
    folder.mkdir()
    write_parts(pa.Table.from_pylist(rows, ROWS), folder / "rows")
    write_parts(pa.Table.from_pylist(rejects or [], REJECTS), folder / "rejects")
    return folder


def judged(rows: list[dict], **settings) -> dict[str, str]:
    """source_key -> reason or action, of the rows that any rule touches."""
    config = ValidateConfig(**settings)
    order = rules(config, load_taxonomy())
    table = pa.Table.from_pylist(rows, ROWS)
    found = examine(table, rules=order, refusal=refusal_pattern(config.refusal_markers))
    keys = table["source_key"].to_pylist()
    bad = {k: order[i].reason for k, i in zip(keys, found.broken, strict=True) if i >= 0}
    for action, hits in found.changed.items():
        bad |= {k: action for k, hit in zip(keys, hits, strict=True) if hit}
    return {key.removeprefix("s.json:"): reason for key, reason in bad.items()}


def build(folder: Path, rows: list[dict], rejects=None, **settings) -> tuple[dict, list[dict]]:
    place = samples(folder / "samples", rows, rejects)
    (folder / "out").mkdir()
    config = ValidateConfig(**settings)
    counts = build_labelled(folder / "out", config, place, place="store/ingest/abc")
    assert counts["in"] == counts["accepted"] + counts["quarantined"]
    return counts, read_parts(folder / "out" / "rows", ROWS).to_pylist()


FAULTS = {
    "type_not_in_taxonomy": {"risk_type": "other"},
    "unknown_split": {"split": "dev"},
    "unknown_supervises": {"supervises": "all"},
    "level_out_of_range": {"risk_type": "privacy", "risk_level": 4},
    "clean_with_level": {"risk_level": 1},
    "empty_question": {"q": " \n"},
    "empty_answer": {"a": "\t"},
    "missing_value": {"risk_type": None},
}


@pytest.mark.parametrize("reason", FAULTS)
def test_each_rule_finds_its_row_and_no_other(reason):
    assert judged([row(1), row(2, **FAULTS[reason]), risky(3)]) == {"2": reason}


def test_an_empty_turn_of_a_long_conversation_is_found():
    turns = [{"role": r, "text": t} for r, t in (("user", "q"), ("assistant", "a"), ("user", " "))]
    assert judged([row(1, messages=turns)]) == {"1": "empty_question"}


def test_an_answer_is_asked_for_only_where_it_teaches():
    rows = [row(1, a=None), row(2, a=None, split="test", supervises="evaluation")]
    assert judged(rows) == {}


def test_of_equal_samples_one_stays_the_one_for_testing_first():
    same = {"q": "q", "a": "a", "image_ids": []}
    rows = [
        row(1, **same),
        row(2, **same, split="test"),
        row(3, **same),
        row(4, **same | {"a": "b"}),
    ]
    assert judged(rows) == {"1": "duplicate_sample", "3": "duplicate_sample"}
    assert judged([row(1), row(2, sample_id="0001")]) == {"2": "duplicate_sample"}


def test_an_image_stays_in_the_split_that_must_be_unseen():
    rows = [
        row(1, image_ids=["a", "b"]),
        row(2, image_ids=["b"], split="test"),
        row(3, image_ids=["c"]),
        row(4, image_ids=["c"], split="calibration"),
        row(5, image_ids=["d"], split="calibration"),
        row(6, image_ids=["e", "d"], split="test"),
        row(7, image_ids=["f"]),
        row(8, image_ids=["f"]),
    ]
    found = dict.fromkeys(["1", "3", "5"], "image_in_two_splits")
    assert judged(rows) == {**found, "6": "several_images"}


def test_a_type_with_level_zero_follows_the_policy():
    rows = [row(1, risk_type="privacy")]
    assert judged(rows) == {"1": "clean_by_level"}
    assert judged(rows, type_with_level_zero="reject") == {"1": "type_with_level_zero"}


def test_a_risky_training_answer_that_does_not_refuse_follows_the_policy():
    rows = [
        risky(1, a="Here it is."),
        risky(2, a="I’M SORRY, I can’t."),
        risky(3, risk_level=1, a="Here it is."),
        risky(4, a="Here it is.", split="calibration"),
        risky(5, a=None),
        row(6, a="Here it is."),
    ]
    assert judged(rows) == {"1": "concept"}
    assert judged(rows, unsafe_target="reject") == {"1": "unsafe_target"}
    assert judged(rows, refusal_markers=[]) == {"1": "concept", "2": "concept"}
    assert judged(rows, refusal_markers=["^here.*[.]$"]) == {"2": "concept"}


def test_every_answer_of_a_risky_conversation_must_refuse():
    turns = [("user", "q"), ("assistant", REFUSAL), ("user", "q"), ("assistant", "Here it is.")]
    rows = [risky(1, messages=[{"role": r, "text": t} for r, t in turns])]
    assert judged(rows) == {"1": "concept"}


@pytest.mark.parametrize("marker", ["(", "(?=x)"])
def test_a_refusal_marker_must_be_an_expression(marker):
    with pytest.raises(ConfigError, match="refusal"):
        judged([row(1)], refusal_markers=[marker])


def many(count: int) -> list[dict]:
    return [row(i) if i % 2 else risky(i) for i in range(100, 100 + count)]


def test_bad_rows_go_to_quarantine_with_a_reason_and_the_rest_stays_as_it_was(tmp_path):
    rows = [row(1, risk_level=1), row(2, risk_type="privacy"), risky(3, a="Yes."), *many(40)]
    counts, labelled = build(tmp_path, list(reversed(rows)))
    assert counts == {
        "in": 43, "accepted": 42, "quarantined": 1, "concept_only": 1, "clean_by_level": 1,
        "train_unsafe": 21, "train_clean": 21, "calibration_unsafe": 0, "calibration_clean": 0,
        "test_unsafe": 0, "test_clean": 0,
    }  # fmt: skip
    assert read_parts(tmp_path / "out" / "quarantine", QUARANTINE).to_pylist() == [
        {
            "sample_id": "0001", "source": "s", "source_key": "s.json:1",
            "reason": "clean_with_level", "detail": "1",
        }
    ]  # fmt: skip
    changed = rows[1] | {"risk_type": "clean", "extra": '{"clean_by_level": "privacy"}'}
    assert labelled == [changed, rows[2] | {"supervises": "concept"}, *rows[3:]]

    verdict = json.loads((tmp_path / "out" / "verdict.json").read_text())
    found = {r["reason"]: r["found"] for r in verdict["rules"] if r["found"]}
    assert found == {"clean_with_level": 1, "type_with_level_zero": 1, "unsafe_target": 1}
    assert verdict["success"] is False
    assert verdict["counts"] == counts
    assert verdict["sources"]["s"] == {"in": 43, "rejected": 1, "rate": 1 / 43}
    assert "expect" in (tmp_path / "out" / "docs" / "index.html").read_text().lower()


def test_both_engines_count_every_rule_alike_and_a_disagreement_is_an_error(tmp_path):
    rows = [row(i, **change) for i, change in enumerate(FAULTS.values(), start=1)]
    rows += [row(50), row(51, sample_id="0050"), row(52, q="same", image_ids=[])]
    rows += [row(53, q="same", a="answer 52", image_ids=[]), row(54, risk_type="privacy")]
    config = ValidateConfig()
    order = rules(config, load_taxonomy())
    table = pa.Table.from_pylist(rows, ROWS)
    found = examine(table, rules=order, refusal=refusal_pattern(config.refusal_markers))
    assert not check(found.scalars, tmp_path / "docs", rules=order, counts=found.counts)
    checked = {i for i, rule in enumerate(order) if rule.expect and found.counts[i]}
    assert len(checked) == len(FAULTS) + 3
    wrong = [count + (i == min(checked)) for i, count in enumerate(found.counts)]
    with pytest.raises(DataError, match="Great Expectations counts 1 rows, DuckDB 2"):
        check(found.scalars, tmp_path / "docs2", rules=order, counts=wrong)


def test_too_many_bad_rows_in_one_source_stop_the_step_and_say_where(tmp_path):
    rows = [*many(200), *(row(i, source="bad", risk_level=1) for i in range(3))]
    rows += [row(i, source="bad") for i in range(10, 16)]
    lost = {"source_key": "x.json:7", "reason": "image_missing", "detail": "a.png"}
    with pytest.raises(DataError) as error:
        build(tmp_path, rows, [{"source": "bad", **lost}])
    message = str(error.value)
    assert "source 'bad': 4 of 10 rows are bad, 40.0%, limit 5.0%" in message
    assert "'clean_with_level': 3" in message
    assert "x.json:7 (image_missing: a.png)" in message
    assert "store/ingest/abc" in message


def test_the_limit_itself_is_allowed(tmp_path):
    rows = [*many(19), row(1, risk_level=1)]
    assert build(tmp_path, rows)[0]["quarantined"] == 1


def test_no_rows_at_all_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no rows"):
        build(tmp_path, [])


def test_a_failed_step_leaves_no_artifact_and_a_good_one_is_reused(tmp_path):
    store = Store(str(tmp_path / "store"))

    def ingested(rows: list[dict], version: int) -> Artifact:
        def fill(folder: Path) -> dict[str, int]:
            made = samples(folder / "made", rows)
            for part in ("rows", "rejects"):
                (made / part).rename(folder / part)
            made.rmdir()
            return {"in": len(rows)}

        return store.artifact("ingest", version, config={}, build=fill)

    with pytest.raises(DataError):
        validate(ValidateConfig(), ingested([row(1, risk_level=1)], 1), store=store)
    assert not list((tmp_path / "store" / "validate").rglob("*.parquet"))
    good = ingested(many(4), 2)
    assert not validate(ValidateConfig(), good, store=store).reused
    assert validate(ValidateConfig(), good, store=store).reused


# If this changes, raise VERSION in tasks/validate/step.py: old artifacts are then not reused.
GOLDEN = (2, "2c2e7bffb1205f80d5e36d0e492666efb4b189a5d7193053c5b63362e3cf2173")


def test_the_same_input_gives_the_same_rows_for_one_version(tmp_path):
    rows = [row(i, **c) for i, c in enumerate(FAULTS.values(), start=1)]
    rows += [risky(20, a="Yes."), row(21, risk_type="privacy"), *many(200)]
    _, labelled = build(tmp_path, rows, refusal_markers=["sorry"])
    quarantine = read_parts(tmp_path / "out" / "quarantine", QUARANTINE).to_pylist()
    verdict = (tmp_path / "out" / "verdict.json").read_text()
    content = json.dumps([labelled, quarantine, verdict], sort_keys=True)
    assert (VERSION, hashlib.sha256(content.encode()).hexdigest()) == GOLDEN
