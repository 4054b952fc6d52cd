"""Ray's jobs API over HTTP on 127.0.0.1 without a Ray behind it, to be slow, down and forgetful."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web

from infra.port import spare_port


@dataclass
class Api:
    """What it knows, and how it behaves.

    Attributes:
        status: id -> status of each job.
        then: status that a running job has after so many looks.
        looks: left before a running job changes.
        down: requests about a job that are cut off without an answer, from now on.
        lose: answers to a submission that get lost although it was taken.
        log: of every job.
        asked: entrypoint and runtime_env of what was submitted, by id.
    """

    address: str
    ray: str
    status: dict[str, str] = field(default_factory=dict)
    then: str = "SUCCEEDED"
    looks: int = 1
    down: int = 0
    lose: int = 0
    log: str = "one\n2/3\nthree\n"
    asked: dict[str, dict] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)

    def details(self, name: str) -> dict:
        told = {"type": "SUBMISSION", "submission_id": name, "entrypoint": "x", "message": "ended"}
        return {**told, "status": self.status[name]}

    async def version(self, _: web.Request) -> web.Response:
        told = {"version": "4", "ray_version": self.ray, "ray_commit": "", "session_name": ""}
        return web.json_response(told)

    async def jobs(self, _: web.Request) -> web.Response:
        return web.json_response([self.details(name) for name in self.status])

    async def package(self, _: web.Request) -> web.Response:
        return web.Response()

    async def submit(self, request: web.Request) -> web.Response:
        asked = await request.json()
        name = asked["submission_id"]
        if name in self.status:
            return web.Response(status=500, text="already exists")
        self.status[name], self.asked[name] = "RUNNING", asked
        if self.lose:
            self.lose -= 1
            cut(request)
        return web.json_response({"job_id": name, "submission_id": name})

    async def job(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if self.down:
            self.down -= 1
            return cut(request)
        if name not in self.status:
            return web.Response(status=404, text="no such job")
        if self.status[name] == "RUNNING":
            self.looks -= 1
            if self.looks <= 0:
                self.status[name] = self.then
        return web.json_response(self.details(name))

    async def logs(self, _: web.Request) -> web.Response:
        return web.json_response({"logs": self.log})

    async def tail(self, request: web.Request) -> web.WebSocketResponse:
        """The first time the connection breaks in mid-line."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        if not self.stopped and "tail" not in self.asked:
            self.asked["tail"] = {}
            await socket.send_str(self.log[:5])
            cut(request)
            return socket
        await socket.send_str(self.log)
        while self.status[request.match_info["name"]] == "RUNNING":
            await asyncio.sleep(0.01)
        await socket.close()
        return socket

    async def stop(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self.stopped.append(name)
        self.status[name] = "STOPPED"
        return web.json_response({"stopped": True})


def cut(request: web.Request) -> web.Response:
    """Break the connection; what is returned goes nowhere."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@contextmanager
def jobs_api(ray: str) -> Iterator[Api]:
    """Serves until the body ends."""
    port = spare_port()
    api = Api(f"http://127.0.0.1:{port}", ray)
    app = web.Application()
    app.add_routes(
        [
            web.get("/api/version", api.version),
            web.get("/api/jobs/", api.jobs),
            web.post("/api/jobs/", api.submit),
            web.get("/api/jobs/{name}", api.job),
            web.get("/api/jobs/{name}/logs", api.logs),
            web.get("/api/jobs/{name}/logs/tail", api.tail),
            web.post("/api/jobs/{name}/stop", api.stop),
            web.get("/api/packages/{protocol}/{name}", api.package),
        ]
    )
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    loop.run_until_complete(runner.setup())
    loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", port).start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield api
    finally:
        api.status = dict.fromkeys(api.status, "STOPPED")  # who follows a log is let go
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(runner.cleanup())
        loop.close()
