"""The step: a trained stage 1, and others beside it -> a table, a page and a picture."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from infra.fingerprint import content_hash
from infra.library import INDEX
from infra.store import Store
from schemas.artifact import Artifact
from schemas.errors import ConfigError, DataError
from schemas.frozen import Frozen
from schemas.probe import ProbeConfig, ProbeRow
from schemas.taxonomy import load_taxonomy
from tasks.base_model import FOLDER, libraries
from tasks.encode import FeatureCache
from tasks.probe.rows import rows_of
from tasks.sweep.columns import columns, flattened
from tasks.sweep.files import PAGE, TEXT, write_table

if TYPE_CHECKING:
    from tasks.probe.experiments import Picture, Probed

STEP, VERSION = "probe", 3


class ProbeInputs(Frozen):
    """What is probed: stage 1 of several methods of one seed, by name, the first one's parts."""

    labelled: Artifact
    features: Artifact
    base: Artifact
    models: dict[str, Artifact]
    seed: int

    def parents(self) -> dict[str, Artifact]:
        """The artifacts by role."""
        given = {"labelled": self.labelled, "features": self.features, "base": self.base}
        return given | {f"model {name}": model for name, model in self.models.items()}


def probe(config: ProbeConfig, inputs: ProbeInputs, *, store: Store) -> Artifact:
    """`probe.parquet`, `.csv`, `.md`, `.html`, and the picture as PNG and SVG.

    Args:
        config: how much is looked at.
        inputs: the snapshot, the base, and the models.
        store: where artifacts live.

    Raises:
        ConfigError: the first method has no head, or no safety projector to probe.
        DataError: a split without a single row of one image.
    """
    settings = {**config.model_dump(mode="json"), "methods": list(inputs.models)}
    return store.artifact(
        STEP,
        VERSION,
        config={**settings, "trained_with_seed": inputs.seed},
        parents=inputs.parents(),
        inputs={
            "taxonomy": content_hash(load_taxonomy(config.taxonomy)),
            **libraries(),
            **{name: version(name) for name in ("matplotlib", "numpy")},
        },
        build=lambda folder: _build(config, inputs, store, folder),
    )


def _build(config: ProbeConfig, inputs: ProbeInputs, store: Store, folder: Path) -> dict[str, int]:
    from tasks.probe.experiments import head, projector, tokens

    given = _opened(config, inputs, store)
    rows, picture = projector(given)
    rows += tokens(given)
    rows += head(given)
    names = load_taxonomy(config.taxonomy).type_ids
    write(rows, picture, folder, methods=list(inputs.models), types=names)
    return {"train": len(given.train), "test": len(given.test), "rows": len(rows)}


def _opened(config: ProbeConfig, inputs: ProbeInputs, store: Store) -> "Probed":
    from tasks.probe.experiments import Probed
    from tasks.probe.states import opened

    taxonomy = load_taxonomy(config.taxonomy)
    index = pq.read_table(store.local(inputs.features) / INDEX, columns=["image_id"])
    encoded, labelled = index["image_id"].combine_chunks(), store.local(inputs.labelled)
    splits = {
        split: rows_of(labelled, encoded, split, config=config, taxonomy=taxonomy)
        for split in ("train", "test")
    }
    for split, rows in splits.items():
        if not rows:
            raise DataError(f"no row of the {split} split has exactly one encoded image to probe")
    folders = {name: store.local(model) / FOLDER for name, model in inputs.models.items()}
    found = opened(store.local(inputs.base) / FOLDER, folders)
    part = found.parts[found.first]
    if part.head == "none" or part.projector == "none":
        raise ConfigError(
            f"{found.first} has head {part.head!r} and projector {part.projector!r}, and its "
            "projector and head are what is probed: name a method first that has both, such as "
            "psa-vlm"
        )
    cache = FeatureCache(inputs.features)
    return Probed(config, found, cache, splits["train"], splits["test"], inputs.seed)


def write(
    rows: Sequence[ProbeRow],
    picture: "Picture",
    folder: Path,
    *,
    methods: Sequence[str],
    types: Sequence[str],
) -> None:
    """All files of the artifact into an empty folder; `types` are their names, clean last."""
    from tasks.probe.figure import LAYOUTS, draw
    from tasks.probe.page import document
    from tasks.sweep.document import as_html, as_markdown

    path, told = folder / STEP, document(rows, methods)
    write_table(map(_flat, rows), table_schema(), path)
    draw(picture, rows, types, folder)
    path.with_suffix(TEXT).write_text(as_markdown(told), encoding="utf-8")
    path.with_suffix(PAGE).write_text(as_html(told, LAYOUTS, folder), encoding="utf-8")


def table_schema() -> pa.Schema:
    """The columns of the written table."""
    texts = [(name, pa.string()) for name in ("experiment", "what", "measure")]
    return pa.schema([*texts, *columns(["share"])])


def _flat(row: ProbeRow) -> dict[str, object]:
    return flattened(row.model_dump(exclude={"metric"}), {"share": row.metric}, ["share"])
