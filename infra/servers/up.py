"""Bring all servers up: the missing ones side by side, the living ones left as they are."""

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from infra.ray_settings import own_settings
from infra.servers.deployments import (
    PLAN,
    checked_plan,
    deploy,
    ensure_automation,
    ensure_pool,
    stale,
)
from infra.servers.health import SILENT, api, healthy
from infra.servers.orphans import end_orphans
from infra.servers.ports import asked, check_free, check_same
from infra.servers.run import start, stop, sweep
from infra.servers.settings import settings
from infra.servers.specs import PREFECT, RAY, SPECS, WORKER, Spec
from infra.servers.state import FOLDER, Server, servers
from schemas.errors import ServerError

# A cold start on two busy cores.
PATIENCE_S = 180.0
POLL_S = 0.2
Say = Callable[[str], None]


def up(root: Path, environment: Mapping[str, str], *, say: Say) -> dict[str, Server]:
    """Return all servers, healthy, with deployments in place and orphaned runs ended.

    Args:
        root: the project's folder.
        environment: what the servers inherit.
        say: told what is being done.

    Raises:
        ConfigError: no project here, a port that is taken, or a server that listens elsewhere.
        ServerError: a server dies or does not answer; those that this call started are stopped.
    """
    checked_plan(root)
    with locked(root):
        given = settings(root)
        known = servers(root)
        ports = {spec.name: asked(spec, root, given) for spec in SPECS}
        living = {name: server for name, server in known.items() if server.alive()}
        for spec in SPECS:
            if spec.name in living:
                check_same(spec, living[spec.name], ports[spec.name], given)
        missing = [spec for spec in SPECS if spec.name not in living]
        for spec in missing:
            if spec.name in known:
                sweep(root, known[spec.name])
        check_free(missing, ports)
        if missing:
            say(f"starting {', '.join(spec.title for spec in missing)}")
        begun = _Start(root, dict(environment), say)
        with begun.undone():
            begun.start([spec for spec in missing if spec is not WORKER], ports)
            begun.prepare(living.get(WORKER.name))
            begun.start([spec for spec in missing if spec is WORKER], ports)
            begun.deploy()
            begun.wait(servers(root))
        return servers(root)


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """One `up` or `down` at a time."""
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _Start:
    """One call of `up`: what it has started, and when."""

    def __init__(self, root: Path, environment: dict[str, str], say: Say) -> None:
        self.root = root
        self.environment = environment
        self.say = say
        self.since: dict[str, float] = {}
        self.again = False

    def start(self, specs: list[Spec], ports: Mapping[str, Mapping[str, int]]) -> None:
        for spec in specs:
            self.since[spec.name] = time.time()
            environment = _environment(self.root, self.environment, ports)
            start(spec, self.root, ports=ports[spec.name], environment=environment)

    def prepare(self, worker: Server | None) -> None:
        """What must be before a worker looks for work: its pool, and no dead run in its way."""
        self.wait({PREFECT.name: servers(self.root)[PREFECT.name]})
        address = api(self.root)
        ensure_pool(address)
        ensure_automation(address)
        for name, state in end_orphans(address, worker=worker.pid if worker else None).items():
            self.say(f"run {name} was left behind: now {state}")

    def deploy(self) -> None:
        address = api(self.root)
        if stale(self.root, address):
            self.say(f"deploying the flows of {PLAN}")
            ports = {spec.name: servers(self.root)[spec.name].ports for spec in SPECS}
            deploy(self.root, address, _environment(self.root, self.environment, ports))

    def wait(self, wanted: Mapping[str, Server]) -> None:
        """Return when all are healthy; ServerError if one dies or time is over."""
        deadline = time.monotonic() + PATIENCE_S
        left = dict(wanted)
        while True:
            for name, server in list(left.items()):
                if healthy(server, self.root, since=self.since.get(name, 0.0)):
                    del left[name]
                elif not server.alive() and self._may_try_again(server):
                    left[name] = self._try_again(server)
                elif not server.alive():
                    raise ServerError(f"the {server.title} died: {_last_words(server)}")
            if not left:
                return
            if time.monotonic() > deadline:
                late = next(iter(left.values()))
                raise ServerError(
                    f"the {late.title} does not answer within {PATIENCE_S:.0f} s: "
                    f"{_last_words(late)}; psavlm down, then up"
                )
            time.sleep(POLL_S)

    def _may_try_again(self, server: Server) -> bool:
        """Ray gives its own processes 30 s to start, whatever else the machine does."""
        return server.name == RAY.name and server.name in self.since and not self.again

    def _try_again(self, server: Server) -> Server:
        self.again = True
        self.say(f"the {server.title} died while starting: once more ({_last_words(server)})")
        sweep(self.root, server)
        self.start([RAY], {name: known.ports for name, known in servers(self.root).items()})
        return servers(self.root)[RAY.name]

    @contextlib.contextmanager
    def undone(self) -> Iterator[None]:
        """Stop what this call has started if it fails, whatever stopped it."""
        try:
            yield
        except SILENT as error:
            self._stop()
            raise ServerError(
                f"the Prefect server refuses what it is asked ({error}): see {FOLDER}/prefect.log"
            ) from error
        except BaseException:
            self._stop()
            raise

    def _stop(self) -> None:
        for name, server in reversed(servers(self.root).items()):
            if name in self.since:
                stop(self.root, server)


def _environment(
    root: Path, environment: Mapping[str, str], ports: Mapping[str, Mapping[str, int]]
) -> dict[str, str]:
    """What every server and every flow run is told: where all the others are, and the token."""
    heads = servers(root)
    ray = heads["ray"].ports if "ray" in heads else ports["ray"]
    own = {
        "PREFECT_API_URL": f"http://127.0.0.1:{ports['prefect']['prefect']}/api",
        "PREFECT_HOME": str(root / ".psavlm/prefect"),
        "PSAVLM_HOME": str(root),
        "PSAVLM_CLUSTER": f"127.0.0.1:{ray['ray_head']}",
        # Ray's own processes ask about actors at the last cluster that the machine saw start.
        "RAY_ADDRESS": f"127.0.0.1:{ray['ray_head']}",
        "PYTHONUNBUFFERED": "1",
        # Seven processes for jobs that nobody submits.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        **own_settings(root / ".psavlm"),
    }
    return {**{k: v for k, v in environment.items() if k != "RAY_AUTH_TOKEN"}, **own}


def _last_words(server: Server) -> str:
    lines = Path(server.log).read_text(encoding="utf-8", errors="replace").split("\n")
    words = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return f"{words} (see {server.log})"
