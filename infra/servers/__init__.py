"""The servers of `psavlm up`: Prefect server and worker, Ray head, MLflow page, all on loopback.

Neither Prefect nor Ray nor MLflow is imported here: each is a process, asked over HTTP.
"""

from infra.servers.down import down
from infra.servers.state import Server, addresses, servers
from infra.servers.up import up

__all__ = ["Server", "addresses", "down", "servers", "up"]
