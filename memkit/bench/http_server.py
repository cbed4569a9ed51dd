"""A real server on loopback, in a thread, for tests and benchmarks."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx2
import uvicorn
from fastapi import FastAPI

from memkit.engine.transformers.engine import TransformersEngine
from memkit.server.app import create_app
from memkit.server.config import ServerConfig
from memkit.server.dependencies import Services

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

BROWSER, DRIVER = "chromium", "chromedriver"  # of Debian's packages chromium and chromium-driver


@dataclass(frozen=True)
class LiveServer:
    """A running server with its application and services."""

    url: str
    app: FastAPI
    services: Services

    def key(self, tenant: str) -> str:
        """A new API key of a tenant."""
        return self.services.bank.keys.create(tenant)[1]

    def client(self, tenant: str = "acme", user: str = "", **headers: str) -> httpx2.Client:
        """A client with a new key of the tenant, for a user, with further ``headers``."""
        headers = {"Authorization": f"Bearer {self.key(tenant)}", **headers}
        if user:
            headers["X-Memkit-User"] = user
        return httpx2.Client(base_url=self.url, headers=headers, timeout=60)

    def settled(self) -> None:
        """Wait until no compilation is queued or running."""
        while self.services.jobs.busy:
            time.sleep(0.02)


def remember(client: httpx2.Client, text: str, **more: Any) -> str:
    """Remember a text without compiling it; returns the memory's id."""
    answer = client.post("/memories", json={"text": text, "compile": False, **more})
    answer.raise_for_status()
    return str(answer.json()["memory"]["id"])


@contextmanager
def served(config: ServerConfig, engine: TransformersEngine | None = None) -> Iterator[LiveServer]:
    """A server with this configuration, for the duration of the context."""
    app = create_app(config, engine)
    with running(app) as url:
        yield LiveServer(url, app, app.state.services)


@contextmanager
def running(app: Any) -> Iterator[str]:
    """Serve an application for the duration of the context; yields its URL."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
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


def has_browser() -> bool:
    """Whether Chromium and its driver are installed."""
    return shutil.which(BROWSER) is not None and shutil.which(DRIVER) is not None


@contextmanager
def browser(width: int = 1200, height: int = 900, *, dark: bool = False) -> Iterator[WebDriver]:
    """A headless Chromium with a viewport of that size, in the light or ``dark`` colour scheme."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which(BROWSER))
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(shutil.which(DRIVER))))
    try:
        # A window has a minimal width; an emulated device does not.
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        yield driver
    finally:
        driver.quit()
