"""Process-wide settings, made before any heavy import: no telemetry, no hub, quiet libraries."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from schemas.errors import ConfigError, ServerError, StorageError

SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Threads that spin while they wait made an evaluation beside other work 20 times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
    # A step's failure is told once, by this command: not again as Prefect's traceback.
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}
STATE = Path(".psavlm")
# Made for this command: a server's or a deployed run's own log is another matter.
LOGGING = ("PREFECT_LOGGING_LEVEL", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL")


def quiet() -> None:
    """Set what the user has not set; Prefect's files go under `.psavlm/`."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_HOME", str((STATE / "prefect").resolve()))


def connect() -> None:
    """Use the servers of `psavlm up` where they are up, else none; what the user has set stays.

    Prefect would otherwise look for the server that pyproject.toml names, up or not.
    """
    from infra.ray_settings import OWN, own_settings
    from infra.servers.settings import PREFECT_URL, is_here, prefect_url, settings
    from infra.servers.state import addresses

    up = addresses()
    if PREFECT_URL not in os.environ:
        url = prefect_url(Path(), settings(Path()))
        if not url or is_here(url):
            os.environ[PREFECT_URL] = f"{up['prefect']}/api" if "prefect" in up else ""
    if "cluster" in up and OWN not in os.environ:
        os.environ[OWN] = up["cluster"]
        os.environ.pop("RAY_AUTH_TOKEN", None)
        os.environ.update(own_settings(STATE))


def reach(*addresses: str) -> None:
    """Have the credentials of PSAVLM_AWS_BLOCK, if one of the addresses lies in a bucket.

    Raises:
        ConfigError, ServerError, StorageError: as use_credentials.
    """
    if any(address.startswith("s3://") for address in addresses):
        from tasks.credentials import use_credentials

        connect()
        use_credentials()


@contextmanager
def prefect_api() -> Iterator[None]:
    """Prefect's API for a flow that is called here: of `connect`'s choice, or a temporary one.

    Raises:
        ConfigError: a parameter that the flow refuses.
        StorageError: Prefect's folder cannot be made.
        ServerError: no server answers, or the temporary one does not come up.
    """
    from infra.servers.settings import PREFECT_URL
    from infra.servers.temporary import temporary
    from tasks.progress import say

    home = _made_home()  # before Prefect is imported, which warns when it cannot
    url = os.environ.get(PREFECT_URL)
    if url != "":
        if url:
            _check_answers(url)
        with _refusals():
            yield
        return
    say("starting Prefect's temporary server")
    with temporary(home) as server:
        os.environ[PREFECT_URL] = server.url
        import prefect  # noqa: F401 - takes seconds, while the server starts

        server.wait()
        with _refusals():
            yield


@contextmanager
def _refusals() -> Iterator[None]:
    """Tell in one line what of a flow's parameters Prefect refuses by a traceback."""
    from prefect.exceptions import ParameterTypeError

    try:
        yield
    except ParameterTypeError as error:
        told = " ".join(str(error).split())
        raise ConfigError(f"{told}; see --help for what may be given") from error


def _check_answers(url: str) -> None:
    """Tell in one line what Prefect would tell by a traceback."""
    from infra.servers.health import listens
    from infra.servers.settings import PREFECT_URL

    address = urlsplit(url)
    if not listens(address.hostname or "", address.port or (443 if url[:5] == "https" else 80)):
        raise ServerError(
            f"no Prefect server answers at {PREFECT_URL}={url}: start it (psavlm up, on this "
            "machine), or unset the variable to run with a temporary server"
        )


def _made_home() -> Path:
    home = Path(os.environ["PREFECT_HOME"])
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot make Prefect's folder {home}: {error.strerror}; run in a folder that can be "
            "written, or set PREFECT_HOME to one"
        ) from error
    return home


def for_servers() -> dict[str, str]:
    """The environment without what `quiet` has set for this command's own log."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in LOGGING or value != SETTINGS[name]
    }
