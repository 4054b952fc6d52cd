"""The step itself: choose rows, let the head look, rank what it disputes, draw the sheet."""

from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from infra.fingerprint import content_hash
from infra.library import INDEX
from infra.store import Store
from schemas.artifact import Artifact
from schemas.audit import AuditReport
from schemas.config import AuditConfig
from schemas.errors import DataError
from schemas.frozen import Frozen
from schemas.taxonomy import load_taxonomy
from tasks.answer import base_of
from tasks.audit.rows import check_labels, with_one_image
from tasks.audit.score import by_source, ranked
from tasks.base_model import FOLDER, libraries
from tasks.encode import FeatureCache

VERSION = 1
ROWS, SHEET, SOURCES = "disputed.parquet", "sheet.png", "sources.json"


class AuditInputs(Frozen):
    """What is audited, and by which model; `features` are of the labelled images by its base."""

    samples: Artifact
    labelled: Artifact
    features: Artifact
    model: Artifact


def audit(config: AuditConfig, inputs: AuditInputs, *, store: Store) -> Artifact:
    """`disputed.parquet` (schemas/audit.py, in order), `sources.json` and `sheet.png`.

    A row is asked about if it has exactly one image, and that has features. Counts: in (rows of
    the splits), looked_at, left_out, and from the margin on disputed and level_disputed.

    Args:
        config: splits, margin, and how much of it the sheet shows.
        inputs: the snapshot, and a trained stage.
        store: where artifacts live.

    Raises:
        ConfigError: model or labels are of another taxonomy.
        DataError: no row can be asked about.
    """
    taxonomy = content_hash(load_taxonomy(config.taxonomy))
    drawn_by = {name: version(name) for name in ("matplotlib", "pillow")}
    return store.artifact(
        "audit",
        VERSION,
        config=config,
        parents=dict(inputs),
        inputs={"taxonomy": taxonomy, **libraries(), **drawn_by},
        build=lambda folder: _build(config, inputs, store, folder),
    )


def check_taxonomy(config: AuditConfig, model: Artifact, *, store: Store) -> None:
    """Refuse, before anything is done, a model that knows other types or levels.

    Raises:
        ConfigError: the taxonomies differ.
    """
    from tasks.audit.look import check_card

    check_card(store.local(model) / FOLDER, load_taxonomy(config.taxonomy))


def read_audit(artifact: Artifact, *, store: Store) -> AuditReport:
    """What an audit found in each source."""
    return AuditReport.model_validate_json((store.local(artifact) / SOURCES).read_bytes())


def _build(config: AuditConfig, inputs: AuditInputs, store: Store, folder: Path) -> dict[str, int]:
    from tasks.audit.look import look

    check_taxonomy(config, inputs.model, store=store)
    index = pq.read_table(store.local(inputs.features) / INDEX, columns=["image_id"])
    encoded = index["image_id"].combine_chunks()
    rows, left_out = with_one_image(store.local(inputs.labelled), encoded, splits=config.splits)
    if not rows.num_rows:
        raise DataError(
            f"no row of the splits {', '.join(config.splits)} has exactly one encoded image "
            f"({left_out}): give a snapshot with images, or other splits"
        )
    taxonomy = load_taxonomy(config.taxonomy)
    check_labels(rows, taxonomy)
    seen = look(
        rows,
        FeatureCache(inputs.features),
        base=store.local(base_of(inputs.model)) / FOLDER,
        model=store.local(inputs.model) / FOLDER,
        batch=config.batch,
    )
    disputed = ranked(rows, seen, taxonomy)
    report = AuditReport(
        model=f"{inputs.model.step}/{inputs.model.fingerprint}",
        margin=config.margin,
        splits=config.splits,
        left_out=left_out,
        sources=by_source(rows, disputed, margin=config.margin),
    )
    _write(config, inputs, folder, disputed=disputed, report=report)
    others = sum(left_out.values())
    return {
        "in": rows.num_rows + others,
        "looked_at": rows.num_rows,
        "left_out": others,
        "disputed": sum(source.disputed for source in report.sources),
        "level_disputed": sum(source.level_disputed for source in report.sources),
    }


def _write(
    config: AuditConfig,
    inputs: AuditInputs,
    folder: Path,
    *,
    disputed: pa.Table,
    report: AuditReport,
) -> None:
    from tasks.audit.sheet import contact_sheet

    pq.write_table(disputed, folder / ROWS)
    (folder / SOURCES).write_text(f"{report.model_dump_json(indent=1)}\n", encoding="utf-8")
    # What nobody has decided on is hidden.
    blur = config.blur is not False
    png = contact_sheet(disputed, inputs.samples, count=config.images, blur=blur)
    (folder / SHEET).write_bytes(png)
