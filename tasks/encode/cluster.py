"""Images encoded by a Ray cluster: one encoder a GPU, or a CPU where there are several nodes.

An encoder reads images and writes shards by itself; what goes over the wire are ids. Features do
not depend on who made them, and a shard of an encoder that died is found by the next one.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from infra import ray_cluster
from infra.library import Library
from infra.ray_errors import retold
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import EncodeConfig
from schemas.errors import ServerError, StorageError
from schemas.frozen import Frozen
from tasks.base_model import FOLDER
from tasks.credentials import use_credentials
from tasks.encode.shards import SHARD_VERSION, SHARDS
from tasks.encode.sight import open_sight
from tasks.encode.work import encode_all
from tasks.images import image_library, read_images
from tasks.progress import Tick

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from model.backbone import Backbone

# Images for which a cluster would hardly have begun.
IMAGES_ALONE = 16_384
IMAGES_AT_ONCE = 2_048
RETRIES = 3


class Task(Frozen):
    """What every encoder is told: how, whose images, whose encoder, and where all lies."""

    config: EncodeConfig
    samples: Artifact
    base: Artifact
    root: str
    encoder: str


class Encoder:
    """One process with the frozen encoder."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def encode(self, image_ids: Sequence[str]) -> tuple[int, int]:
        """How many images are done, all of these, and the bytes of the features that were made.

        Raises:
            StorageError: it does not see the root.
        """
        library, backbone = self._opened
        images = read_images(self.task.samples, library.missing(image_ids))
        made = encode_all(self.task.config, images, backbone, library, tick=lambda done: None)
        return len(image_ids), made

    @cached_property
    def _opened(self) -> "tuple[Library, Backbone]":
        """With the first piece: what an actor raises when it is made is told by nobody."""
        use_credentials()
        task, store = self.task, Store(self.task.root)
        if store.find(task.base.step, task.base.fingerprint) is None:
            raise StorageError(
                f"a worker of the Ray cluster sees no {task.base.step} in {task.root}: give a "
                "root that all its nodes see, a bucket or a shared folder"
            )
        library = Library(store, SHARDS, SHARD_VERSION, encoder=task.encoder)
        return library, open_sight(task.config, store.local(task.base) / FOLDER)


def on_cluster(task: Task, image_ids: Sequence[str], *, cluster: str, tick: Tick) -> int | None:
    """Bytes of the features of these images; None where this process may as well do it alone.

    Args:
        task: what encoders are told.
        image_ids: images whose features are not there.
        cluster: address of a Ray head; empty is that of `psavlm up`, if there is one. Of a jobs API
            (http) nothing is asked.
        tick: told how many images are done.

    Raises:
        ConfigError: no cluster answers at the address.
        ServerError: the cluster went away, or an encoder has died again and again.
        StorageError: a worker does not see the root.
    """
    address = cluster or os.environ.get(ray_cluster.OWN, "")
    if not address or "://" in address or len(image_ids) <= IMAGES_ALONE:
        return None
    gpus = ray_cluster.join(address, cpus=1).gpus
    import ray

    nodes = sum(node["Alive"] for node in ray.nodes())
    if gpus < 2 and nodes < 2:
        return None
    asks: dict[str, Any] = {"num_gpus": 1} if gpus else {"num_cpus": 1}
    pieces = list(_pieces(task, image_ids))
    count = min(gpus or int(ray.cluster_resources()["CPU"]), len(pieces))
    done = made = 0
    with retold(_gone), _encoders(task, count, asks) as encoders:
        from ray.util import ActorPool

        pool = ActorPool(encoders)
        for seen, size in pool.map_unordered(lambda one, ids: one.encode.remote(ids), pieces):
            done, made = done + seen, made + size
            tick(done, f"images, {count} encoders")
    return made


@contextmanager
def _encoders(task: Task, count: int, asks: dict[str, Any]) -> "Iterator[list[ActorHandle]]":
    """Encoders over all nodes, ended afterwards: training wants what they hold."""
    import ray

    kind = ray.remote(Encoder).options(
        max_restarts=RETRIES, max_task_retries=RETRIES, scheduling_strategy="SPREAD", **asks
    )
    encoders = [kind.remote(task) for _ in range(count)]
    try:
        yield encoders
    finally:
        for encoder in encoders:
            ray.kill(encoder)


def _pieces(task: Task, image_ids: Sequence[str]) -> Iterator[list[str]]:
    """The images in parts that lie together in the image library: each part is read once."""
    library = image_library(Store(task.root))
    within = library.rows_within(image_ids)
    for places in library.spread(image_ids).values():
        near = [image_ids[i] for i in places[within[places].argsort()]]
        for first in range(0, len(near), IMAGES_AT_ONCE):
            yield near[first : first + IMAGES_AT_ONCE]


def _gone(why: str) -> ServerError:
    return ServerError(
        f"the Ray cluster or its encoders went away ({why}): bring it back, or leave out the "
        "cluster, and run the same command: finished shards are kept"
    )
