"""What `cluster` may name: a head to join (host:port), or a jobs API to submit to (http, https)."""

import os
import re
from pathlib import Path

from schemas.errors import ConfigError

# A folder that the nodes of the cluster have at the same path.
SHARED = "PSAVLM_SHARED_FOLDER"
PATTERN = r"^$|^[^\s:/@]+:\d+$|^https?://[^\s/@?#]+(/[^\s@?#]*)?$"


def takes_jobs(cluster: str) -> bool:
    """Whether the address is that of a jobs API (Ray's dashboard)."""
    return cluster.startswith(("http://", "https://"))


def to_join(cluster: str) -> str:
    """The address for steps that join a cluster; "" for a jobs API, which takes no part in them."""
    return "" if takes_jobs(cluster) else cluster


def check_cluster(cluster: str, root: str) -> None:
    """Refuse what cannot work before anything is done.

    Args:
        cluster: as given.
        root: the store's.

    Raises:
        ConfigError: no such address, or a root that only this machine sees.
    """
    if not re.fullmatch(PATTERN, cluster):
        named = cluster.rpartition("@")[2]
        raise ConfigError(
            f"cluster {named!r} is no address: give host:port of a Ray head, or the "
            "http://host:8265 of its dashboard, without user or password; ray:// is not taken"
        )
    if not takes_jobs(cluster) or "://" in root:
        return
    shared = os.environ.get(SHARED, "")
    if not shared or not Path(root).is_relative_to(os.path.abspath(shared)):
        raise ConfigError(
            f"the cluster at {cluster} cannot be taken to see the root {root}: give --root "
            f"s3://bucket/prefix, or name the folder that all its nodes have too by {SHARED}"
        )
