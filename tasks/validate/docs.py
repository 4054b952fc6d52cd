"""The suite for Great Expectations: verdict and Data Docs over the scalar facts."""

import os
from pathlib import Path
from typing import Any

from schemas.errors import DataError
from tasks.validate.rules import Rule


def check(scalars: Any, folder: Path, *, rules: tuple[Rule, ...], counts: list[int]) -> bool:
    """Run the suite, write the static pages, and return whether every expectation holds.

    Args:
        scalars: pandas frame of the facts, one line a row.
        folder: where the pages go; `index.html` is the entry.
        rules: those with `expect` make up the suite, with one more on the number of rows.
        counts: what DuckDB counted for each rule.

    Raises:
        DataError: the two engines count the same rule differently, or an expectation failed to run.
    """
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("labels").add_dataframe_asset("samples")
    batch = asset.add_batch_definition_whole_dataframe("all rows")
    suite = context.suites.add(gx.ExpectationSuite(name="samples"))
    for number, rule in enumerate(rules):
        if rule.expect:
            suite.add_expectation(_expectation(rule, number))
    suite.add_expectation(gx.expectations.ExpectTableRowCountToBeBetween(min_value=1))
    definition = gx.ValidationDefinition(name="samples", data=batch, suite=suite)
    validation = context.validation_definitions.add(definition)
    _add_site(context, folder)
    action = gx.checkpoint.UpdateDataDocsAction(name="docs", site_names=["docs"])
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(name="samples", validation_definitions=[validation], actions=[action])
    )
    report = checkpoint.run(batch_parameters={"dataframe": scalars})
    for result in next(iter(report.run_results.values())).results:
        _agree(result, rules, counts)
    return bool(report.success)


def _expectation(rule: Rule, number: int) -> Any:
    import great_expectations.expectations as expectations
    from great_expectations.expectations.row_conditions import Column

    options = dict(rule.options)
    if rule.only:
        column, equal, value = rule.only
        options["row_condition"] = Column(column) == value if equal else Column(column) != value
    meta = {"rule": number, "reason": rule.reason}
    return getattr(expectations, rule.expect)(**options, meta=meta)


def _add_site(context: Any, folder: Path) -> None:
    site = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {
            "class_name": "TupleFilesystemStoreBackend",
            "base_directory": str(folder),
        },
    }
    context.add_data_docs_site("docs", site)


def _agree(result: Any, rules: tuple[Rule, ...], counts: list[int]) -> None:
    config = result.expectation_config
    if result.exception_info.get("raised_exception"):
        raise DataError(f"{config.type} could not run: {result.exception_info}")
    number = config.meta.get("rule")
    if number is None:
        return
    counted = result.result["unexpected_count"]
    if counted != counts[number]:
        raise DataError(
            f"rule {rules[number].reason!r}: Great Expectations counts {counted} rows, DuckDB "
            f"{counts[number]}; the two must agree, so this is a fault in psavlm's rules"
        )
