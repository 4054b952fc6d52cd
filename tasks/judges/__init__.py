"""Judges: exact rules, phrases, and models behind an endpoint; one kind in a report, never two."""

from tasks.judges.agreement import agreement
from tasks.judges.choose import choose_judge
from tasks.judges.judge import UNSCORED, Given, Judge, Judgement

__all__ = ["UNSCORED", "Given", "Judge", "Judgement", "agreement", "choose_judge"]
