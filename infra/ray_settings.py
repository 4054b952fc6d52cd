"""What Ray is told by the environment, before it is imported: its habits, and its token."""

import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit

MODE = "RAY_AUTH_MODE"
LOCAL_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    MODE: "token",
    # With the default 2 s a worker killed right after report() resumes one checkpoint back.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
    "RAY_DEDUP_LOGS": "1",
    # Ray gives its workers the lowest priority but four; here they are what everybody waits for.
    "RAY_worker_niceness": "0",
}
# Where the head of `psavlm up` listens, for all that is started beside it.
OWN = "PSAVLM_CLUSTER"
# Ray's own sign, in a process that a cluster has started as a job.
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
RAYS_OWN = Path(".ray/auth_token")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def own_settings(state: Path) -> dict[str, str]:
    """What a head of our own, all that join it and the `ray` command must share."""
    token = str(_token(state / "ray-token"))
    # One machine: gloo must not guess an interface.
    return {**LOCAL_ENVIRONMENT, "RAY_AUTH_TOKEN_PATH": token, "GLOO_SOCKET_IFNAME": "lo"}


def prepare(state: Path) -> None:
    """Settings must be in the environment before Ray is imported.

    A process that a cluster runs as a job keeps the cluster's own way to tell who it is.
    """
    if JOB in os.environ:
        _default({k: v for k, v in LOCAL_ENVIRONMENT.items() if k != MODE})
        return
    _default(LOCAL_ENVIRONMENT)
    if not any(name in os.environ for name in TOKENS):
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(_token(state / "ray-token"))


def prepare_to_ask(address: str, state: Path) -> None:
    """As `prepare`, for a cluster's jobs API: no token of this machine's is sent to another one.

    Without RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH Ray itself looks for ~/.ray/auth_token. Where
    there is none at all, no token is asked for: the cluster may not want one.
    """
    own = state / "ray-token"
    here = urlsplit(address).hostname in LOOPBACK
    if here and own.exists() and not any(name in os.environ for name in TOKENS):
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(own.resolve())
    found = any(name in os.environ for name in TOKENS) or (Path.home() / RAYS_OWN).exists()
    _default({k: v for k, v in LOCAL_ENVIRONMENT.items() if found or k != MODE})


def _default(settings: dict[str, str]) -> None:
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def _token(path: Path) -> Path:
    """A token of our own, readable by the owner only, made once."""
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        draft = path.with_suffix(f".{os.getpid()}")
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_hex(32), encoding="utf-8")
        draft.replace(path)
    return path
