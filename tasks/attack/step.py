"""The step itself: the test items of a snapshot, the attacks on them, and what they reached."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from infra.fingerprint import content_hash
from infra.store import Store, open_artifact
from schemas.artifact import Artifact
from schemas.attack import ATTACKED, AttackConfig, AttackReport
from schemas.errors import ConfigError
from schemas.frozen import Frozen
from schemas.wordings import load_wordings
from tasks.answer import base_of
from tasks.base_model import FOLDER, libraries
from tasks.progress import progress

VERSION = 2
ITEMS, REPORT, PLOT = "items.parquet", "report.json", "attack.png"


class AttackInputs(Frozen):
    """A trained stage with its base, and the snapshot whose test items are attacked."""

    model: Artifact
    base: Artifact
    labelled: Artifact


def attack(config: AttackConfig, inputs: AttackInputs, *, store: Store) -> Artifact:
    """`items.parquet` (schemas/attack.py), `report.json` (AttackReport) and `attack.png`.

    Args:
        config: budgets, steps, restarts, how many items.
        inputs: what is attacked, and with which items.
        store: where artifacts live.

    Raises:
        ConfigError: a base whose pixels cannot be attacked; no such wordings.
        DataError: no risky test item with an image.
    """
    wordings = content_hash(load_wordings(config.wordings))
    return store.artifact(
        "attack",
        VERSION,
        config=config,
        parents=dict(inputs),
        inputs={"wordings": wordings, **libraries()},
        build=lambda folder: _build(config, inputs, store, folder),
    )


def read_attack(artifact: Artifact, *, store: Store) -> AttackReport:
    """What the attacks reached."""
    return AttackReport.model_validate_json((store.local(artifact) / REPORT).read_bytes())


def attack_inputs(model: Artifact, labelled: str = "") -> AttackInputs:
    """A trained stage with its base, and a snapshot by address: by default its own.

    Raises:
        ConfigError: the address is no snapshot's; none is given, and the stage does not name one.
    """
    snapshot = open_artifact(labelled) if labelled else _trained_on(model)
    if snapshot.step != "validate":
        raise ConfigError(
            f"--labelled {labelled}: this is an artifact of step {snapshot.step!r}; give one of "
            "validate, whose test split is attacked"
        )
    return AttackInputs(model=model, base=base_of(model), labelled=snapshot)


def _trained_on(model: Artifact) -> Artifact:
    root = model.uri.rsplit("/", 2)[0]
    parents = Store(root).manifest(model).parents
    if "labelled" not in parents:
        raise ConfigError(
            f"{model.uri} does not say which snapshot it was trained on: give the address of a "
            "validate artifact with --labelled"
        )
    return open_artifact(f"{root}/{parents['labelled']}")


def _build(
    config: AttackConfig, inputs: AttackInputs, store: Store, folder: Path
) -> dict[str, int]:
    from tasks.attack.fight import Fight
    from tasks.attack.items import chosen, victims
    from tasks.attack.plot import draw
    from tasks.attack.table import attack_report
    from tasks.evaluate.arms import open_backbone, open_guarded
    from tasks.evaluate.judging import Judge
    from tasks.evaluate.step import held_out_rows

    rows = held_out_rows(store.local(inputs.labelled))
    judge = Judge.of(rows, config.refusal_markers)
    items = victims(chosen(rows, config), inputs.labelled, judge=judge, config=config)
    backbone = open_backbone(store.local(inputs.base) / FOLDER)
    guarded, intervention = open_guarded(store.local(inputs.model) / FOLDER, backbone)
    templates = load_wordings(config.wordings).templates
    with progress(f"attack {inputs.model.step}", len(items)) as tick:
        fight = Fight(guarded, intervention, judge, config)
        found = fight.attack(items, templates, tick=tick)
    name = f"{inputs.model.step}/{inputs.model.fingerprint}"
    report = attack_report(found, model=name)
    pq.write_table(pa.Table.from_pylist(found, ATTACKED), folder / ITEMS)
    (folder / REPORT).write_text(f"{report.model_dump_json(indent=1)}\n", encoding="utf-8")
    draw(report, folder / PLOT)
    return {**report.items, "checks": len(report.checks), "failed_checks": sum(
        not check.passed for check in report.checks)}  # fmt: skip
