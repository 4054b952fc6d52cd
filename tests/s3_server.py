"""A real S3 HTTP server on 127.0.0.1 for tests, with one bucket."""

from collections.abc import Iterator
from contextlib import contextmanager

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "artifacts"


class Backend:
    """moto's server; stopped and started again it has its address and what it held."""

    def __init__(self) -> None:
        self.port = 0
        self.start()

    def start(self) -> None:
        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self.server.start()
        self.host, self.port = self.server.get_host_and_port()

    def stop(self) -> None:
        self.server.stop()
        self.server._server.server_close()  # else calls would wait where nobody answers


@contextmanager
def s3_server(backend: Backend | None = None) -> Iterator[dict[str, str]]:
    """Starts the server; yields the AWS settings that reach it."""
    server = backend or Backend()
    try:
        settings = {
            "AWS_ENDPOINT_URL": f"http://{server.host}:{server.port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        client = boto3.client(
            "s3",
            endpoint_url=settings["AWS_ENDPOINT_URL"],
            region_name=settings["AWS_DEFAULT_REGION"],
            aws_access_key_id=settings["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=settings["AWS_SECRET_ACCESS_KEY"],
        )
        client.create_bucket(Bucket=BUCKET)
        yield settings
    finally:
        server.stop()
