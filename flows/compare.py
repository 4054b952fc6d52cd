"""The flow `psavlm-compare`, deployed as `psavlm-compare/compare`: is the new model safer?

Both models are asked the same items, those that were asked before from the store; one page says
which is safer, and what it cost.
"""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.comparing import compare_sides
from flows.full_pipeline import DAY_S
from flows.outcome import Outcome
from flows.page import log, warn
from flows.parameters import Preset, Root, configured
from flows.process import note_process
from flows.steps import as_task
from flows.table_page import show_table
from flows.told import told
from infra.store import Store
from tasks.compare.page import table_for_page
from tasks.credentials import use_credentials

Named = Annotated[str, Field(min_length=1)]


@flow(name="psavlm-compare", persist_result=False, timeout_seconds=DAY_S, on_running=[note_process])
def compare(
    old: Named = "previous",
    new: Named = "champion",
    items: str = "",
    preset: Preset = "tiny",
    root: Root = ".psavlm/store",
) -> Outcome:
    """Ask two models the same items; one page that says safer, not shown or worse, and the price.

    Args:
        old: a registered model (champion, previous, a version), the address of a stage1, stage2 or
            base_model artifact, a Hugging Face folder, https://host/v1#model (its key in
            PSAVLM_ENDPOINT_KEY), answers:FILE, or base: that of the new model.
        new: the model in question, named in the same ways.
        items: address of the labelled snapshot whose test split is asked; empty is what the new
            model was trained on, else the old one, else the preset's.
        preset: how items are asked and images encoded.
        root: where artifacts go: a folder or s3://bucket/prefix.
    """
    use_credentials()
    config, store = configured({"preset": preset}), Store(root)
    warn(store.check())
    do = told(as_task, also=log)
    made = compare_sides((old, new), items, config, do=do, store=store)
    page = made["compare"]
    show_table(page, table_for_page(page, store=store), store)
    return Outcome(artifacts=made)
