"""The four processes as data: how each is started, where it listens, which setting moves it.

A command is filled with `python`, `ray`, `home` (the project's folder), `state`, `cpus`, `spare`
(a free port) and the ports by name.
"""

from dataclasses import dataclass, field

POOL = "psavlm"


@dataclass(frozen=True)
class Port:
    """A port: its setting, what it is by default, and how the setting is written."""

    setting: str
    default: int
    form: str = "{port}"


@dataclass(frozen=True)
class Spec:
    """One server.

    Attributes:
        name: of its state and log files.
        title: what people call it.
        command: the arguments, with placeholders.
        ports: placeholder -> port; the first is the page's.
        page: the address to print, with placeholders.
    """

    name: str
    title: str
    command: tuple[str, ...]
    ports: dict[str, Port] = field(default_factory=dict)
    page: str = ""


PREFECT = Spec(
    name="prefect",
    title="Prefect server",
    command=(
        "{python}", "-m", "prefect", "server", "start", "--host", "127.0.0.1",
        "--port", "{prefect}",
    ),
    ports={"prefect": Port("PREFECT_API_URL", 4200, "http://127.0.0.1:{port}/api")},
    page="http://127.0.0.1:{prefect}",
)  # fmt: skip
# Ray gives 127.0.0.1 up for the machine's own address, and its client server must have a port.
RAY = Spec(
    name="ray",
    title="Ray head",
    command=(
        "{ray}", "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--port={ray_head}",
        "--dashboard-host=127.0.0.1", "--dashboard-port={ray_page}",
        "--ray-client-server-port={spare}", "--num-cpus={cpus}", "--disable-usage-stats",
    ),
    ports={
        "ray_page": Port("PSAVLM_RAY_DASHBOARD_PORT", 8265),
        "ray_head": Port("PSAVLM_RAY_PORT", 6379),
    },
    page="http://127.0.0.1:{ray_page}",
)  # fmt: skip
# Clients open the database themselves, so that artifacts must have a place that all can write.
MLFLOW = Spec(
    name="mlflow",
    title="MLflow page",
    command=(
        "{python}", "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", "{mlflow}",
        "--workers", "1", "--backend-store-uri", "sqlite:///{state}/mlflow.db",
        "--default-artifact-root", "{state}/mlflow-artifacts", "--no-serve-artifacts",
    ),
    ports={"mlflow": Port("PSAVLM_MLFLOW_PORT", 5000)},
    page="http://127.0.0.1:{mlflow}",
)  # fmt: skip
WORKER = Spec(
    name="worker",
    title="Prefect worker",
    command=(
        "{python}", "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process",
        "--name", "psavlm",
    ),
)  # fmt: skip
# In the order of starting; they are stopped in the reverse one.
SPECS = (PREFECT, RAY, MLFLOW, WORKER)
