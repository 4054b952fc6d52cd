"""The suites for Great Expectations: verdict and Data Docs over the scalar facts, in batches.

A batch is at most a quarter of a million rows as a pandas frame of scalars, of which a suite sees
those columns that it asks for: Great Expectations hashes and filters whole frames. Rows of equal
keys are never in two batches where uniqueness is asked for, so that counts of batches add up to
those of the whole. The same rows give the same pages, byte for byte.
"""

import os
import shutil
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.errors import DataError
from tasks.validate.frames import frames
from tasks.validate.rule import Condition, Rule

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

BATCH = 250_000
# What Great Expectations sees, in Arrow's kinds: scalars only, never a text of people or an image.
SCALARS = {
    "sample_id": "str", "source": "str", "split": "str", "risk_type": "str", "risk_level": "int",
    "supervises": "str", "language": "str", "licence": "str", "group_id": "str", "images": "int",
    "question_chars": "int", "answer_chars": "int", "refuses": "bool",
}  # fmt: skip
# Great Expectations puts a time into every path; the real one is in the artifact's manifest.
NO_TIME = datetime.fromtimestamp(0, UTC)
SUITES = {"vocabulary": "vocabulary", "cross_column": "cross-column rules"}


class Docs:
    """The suites over some rules, and the static pages; `counts` adds up what all batches found."""

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
        import great_expectations as gx

        self.counts: Counter[int] = Counter()
        self.success = True
        self._gx = gx
        self._context = gx.get_context(mode="ephemeral")
        self._context.variables.progress_bars = {"globally": False}
        asset = self._context.data_sources.add_pandas("labels").add_dataframe_asset("samples")
        self._folder = folder
        self._batch = asset.add_batch_definition_whole_dataframe("all rows")
        _add_site(self._context, folder)

    def suite(self, name: str, expectations: list[Any]) -> Any:
        """A named suite over a frame, to be run."""
        gx, context = self._gx, self._context
        suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations))
        definition = gx.ValidationDefinition(name=name, data=self._batch, suite=suite)
        return context.validation_definitions.add(definition)

    def run(self, suite: Any, frame: "pd.DataFrame", *, name: str) -> None:
        """Check one batch; DataError for an expectation that could not run."""
        run = self._gx.RunIdentifier(run_name=name, run_time=NO_TIME)
        report = suite.run(batch_parameters={"dataframe": frame}, run_id=run)
        self.success &= bool(report.success)
        for result in report.results:
            config = result.expectation_config
            if result.exception_info.get("raised_exception"):
                raise DataError(f"{config.type} could not run: {result.exception_info}")
            if "rule" in config.meta:
                self.counts[config.meta["rule"]] += result.result["unexpected_count"]

    def write(self) -> None:
        """The pages of all that has run, once: each build of the site makes all of it anew."""
        self._context.build_data_docs(site_names=["docs"])
        shutil.rmtree(self._folder / "static")  # fonts and logos that no page of ours shows


def check(
    con: "duckdb.DuckDBPyConnection",
    folder: Path,
    *,
    rules: tuple[Rule, ...],
    counts: list[int],
    batch: int = BATCH,
) -> bool:
    """Run the suites, write the static pages, and return whether every expectation holds.

    Args:
        con: holds `facts` (tasks/validate/facts.py).
        folder: where the pages go; `index.html` is the entry.
        rules: those with `expect` make up the suites, with one more on columns and types.
        counts: what DuckDB counted for each rule.
        batch: most rows of a frame.

    Raises:
        DataError: the two engines count the same rule differently, or an expectation failed to run.
    """
    docs = Docs(folder)
    numbered = [(i, rule) for i, rule in enumerate(rules) if rule.expect]
    suites = [(docs.suite("schema", _schema()), list(SCALARS))]
    for kind, name in SUITES.items():
        own = [(i, rule) for i, rule in numbered if rule.suite == kind]
        suite = docs.suite(name, [_expectation(rule, i) for i, rule in own])
        suites.append((suite, _columns(rule for _, rule in own)))
    for name, frame in frames(con, list(SCALARS), key="position", size=batch):
        for suite, columns in suites:
            docs.run(suite, frame[columns], name=name)
    for number, rule in numbered:
        if rule.suite == "unique":
            key = rule.options["column"]
            suite = docs.suite(f"unique {key}", [_expectation(rule, number)])
            for name, frame in frames(con, [key], key=key, size=batch):
                docs.run(suite, frame, name=name)
    docs.write()
    _agree(docs.counts, rules, counts)
    return docs.success


def _schema() -> list[Any]:
    import great_expectations.expectations as expectations

    columns = expectations.ExpectTableColumnsToMatchOrderedList(column_list=list(SCALARS))
    kinds = [
        expectations.ExpectColumnValuesToBeOfType(column=column, type_=kind)
        for column, kind in SCALARS.items()
    ]
    return [columns, *kinds, expectations.ExpectTableRowCountToBeBetween(min_value=1)]


def _columns(rules: Iterable[Rule]) -> list[str]:
    """What the expectations of some rules look at."""
    asked = [{rule.options["column"], *(column for column, *_ in rule.only)} for rule in rules]
    return [name for name in SCALARS if name in set().union(*asked)]


def _expectation(rule: Rule, number: int) -> Any:
    import great_expectations.expectations as expectations

    options = dict(rule.options)
    if rule.only:
        condition, *others = map(_condition, rule.only)
        for other in others:
            condition &= other
        options["row_condition"] = condition
    meta = {"rule": number, "reason": rule.reason}
    return getattr(expectations, rule.expect)(**options, meta=meta)


def _condition(condition: Condition) -> Any:
    from great_expectations.expectations.row_conditions import Column

    column, operator, value = condition
    if operator == ">=":
        return Column(column) >= value
    return Column(column) == value if operator == "==" else Column(column) != value


def _add_site(context: Any, folder: Path) -> None:
    view = {"module_name": "tasks.validate.pages", "class_name": "Page"}
    site = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder", "view": view},
        "site_section_builders": {"expectations": {"view": view}, "validations": {"view": view}},
        "store_backend": {
            "class_name": "TupleFilesystemStoreBackend",
            "base_directory": str(folder),
        },
    }
    context.add_data_docs_site("docs", site)


def _agree(found: Counter[int], rules: tuple[Rule, ...], counts: list[int]) -> None:
    for number, rule in enumerate(rules):
        if rule.expect and found[number] != counts[number]:
            raise DataError(
                f"rule {rule.reason!r}: Great Expectations counts {found[number]} rows, DuckDB "
                f"{counts[number]}; the two must agree, so this is a fault in psavlm's rules"
            )
