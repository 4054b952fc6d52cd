"""What is done before any step: everything that can be known to be wrong is told at once."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from flows.cli.options import Choice

if TYPE_CHECKING:
    from infra.store import Store
    from schemas.config import PipelineConfig


@contextlib.contextmanager
def started(
    choice: Choice, until: str | None, cluster: str = ""
) -> Iterator[tuple["PipelineConfig", "Store"]]:
    """The run's config and its checked root.

    A body that fails before it has stored anything leaves no new folder, the root included.

    Raises:
        ConfigError: a wrong parameter, preset or cluster, no such step, no such base model.
        DataError: a source's file or image folder does not exist.
        StorageError: the root cannot be written.
        ServerError: the Prefect server that has the credentials does not answer.
    """
    from flows.cli.settings import connect
    from flows.parameters import check_inputs, checked_cluster, checked_until, configured
    from infra.store import Store
    from tasks.credentials import use_credentials
    from tasks.progress import say

    connect()
    use_credentials()
    config = configured(choice.parameters())
    checked_until(until, config)
    checked_cluster(cluster)
    store = Store(choice.root)
    check_inputs(config)
    folders = [] if "://" in store.root else [Path(store.root), *Path(store.root).parents]
    new = [folder for folder in folders if not os.path.lexists(folder)]
    if told := store.check():
        say(told)
    try:
        yield config, store
    finally:
        for folder in new:
            with contextlib.suppress(OSError):  # there is something in it, or it was never made
                folder.rmdir()


@contextlib.contextmanager
def ready(preset: str, root: str) -> Iterator[tuple["PipelineConfig", "Store"]]:
    """The preset's config and the store; what is used of Ray is left afterwards."""
    from flows.cli.settings import connect
    from flows.parameters import configured
    from infra import ray_cluster
    from infra.store import Store
    from tasks.credentials import use_credentials

    connect()
    use_credentials()
    config = configured({"preset": preset})
    try:
        yield config, Store(root)
    finally:
        ray_cluster.leave()
