"""For tests: a real server on loopback, in a thread, gone afterwards."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import uvicorn
from fastapi import FastAPI

from memkit.engine.transformers import TransformersEngine
from memkit.server.app import create_app
from memkit.server.config import ServerConfig
from memkit.server.services import Services


@dataclass(frozen=True)
class Served:
    """A server that runs, with its parts."""

    url: str
    app: FastAPI
    services: Services

    def key(self, tenant: str) -> str:
        """A new key of a tenant."""
        return self.services.bank.keys.create(tenant)[1]

    def client(self, tenant: str = "acme", user: str = "", **headers: str) -> httpx2.Client:
        """A client with a new key."""
        given = {"Authorization": f"Bearer {self.key(tenant)}", **headers}
        if user:
            given["X-Memkit-User"] = user
        return httpx2.Client(base_url=self.url, headers=given, timeout=60)

    def settled(self) -> None:
        """Wait until no compilation waits or runs."""
        while self.services.jobs.busy:
            time.sleep(0.02)


def remember(client: httpx2.Client, text: str, **more: Any) -> str:
    """The id of a new memory, which is left on its text."""
    answer = client.post("/memories", json={"text": text, "compile": False, **more})
    answer.raise_for_status()
    return str(answer.json()["memory"]["id"])


@contextmanager
def served(config: ServerConfig, engine: TransformersEngine | None = None) -> Iterator[Served]:
    """A server with a configuration, for as long as the context lasts."""
    app = create_app(config, engine)
    with running(app) as url:
        yield Served(url, app, app.state.services)


@contextmanager
def running(app: Any) -> Iterator[str]:
    """The address of an application that is served."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the server did not start")
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
