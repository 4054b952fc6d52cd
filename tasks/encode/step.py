"""Encode: every labelled image through the frozen vision tower, once for all that share a root.

An encode artifact names its images and their encoder (`index.parquet`); the features themselves lie
in the root's feature library (shards.py). New images of a later snapshot cost only themselves.
Where no features are kept, it names where each image lies, for those who encode on the fly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from infra.library import INDEX, Library
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import EncodeConfig
from schemas.features import CacheDecision
from tasks.base_model import FOLDER, libraries
from tasks.encode.cluster import Task, on_cluster
from tasks.encode.pictures import places_of
from tasks.encode.room import AUTO, decided, wanted
from tasks.encode.shards import ENCODER, SHARD_VERSION, SHARDS
from tasks.encode.sight import let_go, open_sight
from tasks.encode.work import encode_all
from tasks.images import read_images
from tasks.progress import progress, say

VERSION = 2
Way = Literal["always", "never"]


def encode(
    config: EncodeConfig,
    labelled: Artifact,
    samples: Artifact,
    base: Artifact,
    *,
    store: Store,
    cluster: str = "",
) -> Artifact:
    """Features of all images that labelled rows refer to (h_o, METHOD.md section 2).

    Many images are encoded by the Ray cluster at the address, or that of `psavlm up`, if it has
    more than one GPU or node.

    Counts: images, how many of these had to be encoded, and the bytes of their features; under
    `auto` also what they were expected to take, and what room there was.

    Raises:
        StorageError: a row's image is not in the root's library any more.
        ConfigError, ServerError: no such cluster, or it went away.
    """
    return Encoding(config, labelled, samples, base, store, cluster).made()


def decision(
    config: EncodeConfig, labelled: Artifact, samples: Artifact, base: Artifact, *, store: Store
) -> CacheDecision | None:
    """Whether the features would be kept, and why; None if that cannot be known yet."""
    return Encoding(config, labelled, samples, base, store).decision()


@dataclass(frozen=True)
class Encoding:
    """One call of the step."""

    config: EncodeConfig
    labelled: Artifact
    samples: Artifact
    base: Artifact
    store: Store
    cluster: str = ""

    @property
    def encoder(self) -> str:
        """What the features in the library are known by."""
        return self.store.fingerprint(
            SHARDS,
            SHARD_VERSION,
            config=self.config.numbers,
            parents={"base": self.base},
            inputs=libraries(),
        )

    def decision(self) -> CacheDecision | None:
        """What `cache` comes to."""
        return decided(self.config, self._library, self.labelled, self.base, made=self._found)

    def made(self) -> Artifact:
        """The artifact, built if it is not there."""
        # What is not known yet is only asked for by a plan.
        told = self.decision() or CacheDecision(cache="always", why="not known yet")
        build = self._keep if told.cache == "always" else self._point
        return self.store.artifact(
            "encode", VERSION, **self._ingredients(told.cache),
            build=lambda folder: {**build(folder), **self._said(told)},
        )  # fmt: skip

    def _ingredients(self, cache: Way) -> dict[str, Any]:
        """What the artifact is made of: one that keeps features is as it was before `cache`."""
        config, parents = self.config.numbers, {"labelled": self.labelled, "base": self.base}
        if cache == "never":
            config, parents = {**config, "cache": cache}, {**parents, "samples": self.samples}
        return {"config": config, "parents": parents, "inputs": libraries()}

    def _found(self, cache: Way) -> Artifact | None:
        name = self.store.fingerprint("encode", VERSION, **self._ingredients(cache))
        return self.store.find("encode", name)

    def _library(self) -> Library:
        return Library(self.store, SHARDS, SHARD_VERSION, encoder=self.encoder)

    def _said(self, told: CacheDecision) -> dict[str, int]:
        """An `auto` decision in the log, and its figures as counts."""
        if self.config.cache != AUTO:
            return {}
        does = "are kept" if told.cache == "always" else "are not kept, but encoded when read"
        say(f"encode: features {does}, since {told.why}")
        figures = {"bytes_per_image": told.bytes_per_image, "estimated_bytes": told.bytes,
                   "room_bytes": told.room}  # fmt: skip
        return {name: number for name, number in figures.items() if number is not None}

    def _keep(self, folder: Path) -> dict[str, int]:
        """Encode what the library has not, and name all."""
        ids, library = wanted(self.store.local(self.labelled)), self._library()
        missing, new_bytes = library.missing(ids), 0
        if missing:
            new_bytes = self._encode(missing, library)
        table = pa.table({"image_id": pa.array(ids, pa.string())})
        pq.write_table(table.replace_schema_metadata({ENCODER: self.encoder}), folder / INDEX)
        return {"images": len(ids), "encoded": len(missing), "new_bytes": new_bytes}

    def _encode(self, missing: list[str], library: Library) -> int:
        """Bytes of the features of these images, made by a cluster if there is a larger one."""
        task = Task(
            config=self.config,
            samples=self.samples,
            base=self.base,
            root=self.store.root,
            encoder=self.encoder,
        )
        with progress("encode", len(missing)) as tick:
            made = on_cluster(task, missing, cluster=self.cluster, tick=tick)
            if made is None:
                made = self._encode_here(missing, library, lambda done: tick(done, "images"))
                let_go()
        return made

    def _encode_here(
        self, missing: list[str], library: Library, tick: Callable[[int], None]
    ) -> int:
        """The same by this process, which keeps no encoder afterwards."""
        backbone = open_sight(self.config, self.store.local(self.base) / FOLDER)
        images = read_images(self.samples, missing)
        return encode_all(self.config, images, backbone, library, tick=tick)

    def _point(self, folder: Path) -> dict[str, int]:
        """Note where each image lies; nothing is encoded."""
        places = places_of(self.samples, wanted(self.store.local(self.labelled)))
        pq.write_table(places, folder / INDEX)
        return {"images": places.num_rows, "encoded": 0, "new_bytes": 0}
