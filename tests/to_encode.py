"""A base of one family, images and rows that refer to them: what encode reads, made by hand."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
from PIL import Image

from infra.parts import write_parts
from infra.store import Store
from model.backbone import Backbone
from model.features import ImagePatches
from schemas.artifact import Artifact
from schemas.config import EncodeConfig
from schemas.samples import ROWS
from tasks.encode import encode
from tests.shelf import keep_images
from tests.small_run import row
from tests.small_vlms import SHAPES, image_of, save


def png(number: int) -> bytes:
    out = io.BytesIO()
    image_of(*SHAPES[number % len(SHAPES)], seed=number).save(out, "PNG")
    return out.getvalue()


PNGS = {hashlib.sha256(png(n)).hexdigest(): png(n) for n in range(9)}


class Run:
    """A base of one family, images, and rows that refer to them."""

    def __init__(self, root: Path | str, family: str, pngs: Mapping[str, bytes] = PNGS) -> None:
        self.store, self.pngs = Store(str(root)), pngs

        def build(folder: Path) -> dict[str, int]:
            save(family, folder / "model")
            return {}

        self.base = self.store.artifact("base_model", 1, config={"family": family}, build=build)
        self.backbone = Backbone.load(str(self.store.local(self.base) / "model"))
        self.samples = self.store.artifact("ingest", 1, config={}, build=self._samples)

    def _samples(self, folder: Path) -> dict[str, int]:
        write_parts(keep_images(self.store, dict(self.pngs)), folder / "images")
        return {}

    def labelled(self, ids: list[str]) -> Artifact:
        rows = [{**row(n, "train", "clean", 0), "image_ids": [i]} for n, i in enumerate(ids)]

        def build(folder: Path) -> dict[str, int]:
            write_parts(pa.Table.from_pylist(rows, ROWS), folder / "rows")
            return {}

        return self.store.artifact("validate", 1, config={"ids": ids}, build=build)

    def encoded(self, ids: list[str], **config) -> Artifact:
        return encode(
            EncodeConfig(**config), self.labelled(ids), self.samples, self.base, store=self.store
        )

    def directly(self, name: str) -> ImagePatches:
        image = Image.open(io.BytesIO(self.pngs[name])).convert("RGB")
        return self.backbone.encode_images([image])[0]
