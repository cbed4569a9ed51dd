"""Every registered compiler goes through plan, explain, recompile, the server and the dashboard."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

import httpx2

from memkit import registry
from memkit.bench.http_server import LiveServer, browser, has_browser, remember, served
from memkit.compilers.distillation.flops import FlopMeter
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import CompileError
from memkit.memory import Memory
from memkit.models.loading import LoadedModel, load
from memkit.recompile.advice import QUESTION, USUAL_RATIO, AdvisorConfig
from memkit.recompile.plan import Scope, examine, plan
from memkit.server.config import ServerConfig
from memkit.testing import TEXT, TINY

Cli = Callable[..., Any]
NAMES = [*registry.compilers(), registry.AUTO]


def made_by(compiler: str) -> str:
    """The name that the artifacts of a compiler bear: for auto, of what it chooses for the tiny model."""
    return "meanpool" if compiler == registry.AUTO else compiler


def words(compiler: str) -> list[str]:
    """What chooses a compiler on the command line, with small options."""
    options = [f"{key}={json.dumps(value)}" for key, value in TINY.get(compiler, {}).items()]
    return ["--compiler", compiler, *(word for option in options for word in ("--option", option))]


@pytest.mark.parametrize("compiler", NAMES)
def test_the_command(cli: Cli, document: Path, tiny: LoadedModel, compiler: str) -> None:
    memory_id = cli("remember", document, "--json").json["memory"]["id"]
    told = cli("explain", memory_id, "--json", *words(compiler))
    assert told.code == 0, told.err
    advice = told.json["advice"]
    assert (told.json["due"], advice["tokens"] > 0) == ("not compiled yet", True)
    assert 0 < advice["latent_flops"] < advice["text_flops"]
    assert "pays for itself after questions" in cli("explain", memory_id, *words(compiler)).out
    assert memory_id in cli("recompile", "--dry-run", "--always", *words(compiler)).out
    planned = cli("recompile", "--dry-run", "--always", "--json", *words(compiler))
    assert planned.code == 0, planned.err
    (task,) = planned.json["tasks"]
    assert (task["memory_id"], task["reason"]) == (memory_id, "not compiled yet")
    assert task["tokens"] == advice["tokens"]
    if told.json["cost"] is not None:
        assert task["nbytes"] == told.json["cost"]["nbytes"] > 0
        assert task["seconds"] > 0
    done = cli("recompile", "--always", "--json", *words(compiler))
    assert done.code == 0, done.err
    assert [(o["memory_id"], o["status"], o["version"]) for o in done.json["outcomes"]] == [
        (memory_id, "compiled", 1)
    ]
    assert cli("explain", memory_id, "--json", *words(compiler)).json["due"] == ""
    assert cli("show", memory_id, "--json").json["memory"]["compiler"] == made_by(compiler)


@pytest.mark.parametrize("compiler", NAMES)
def test_what_an_artifact_saves_follows_from_the_compilers_own_ratio(
    home: Path, tiny: LoadedModel, compiler: str
) -> None:
    options = TINY.get(compiler, {})
    with Memory(home, engine=TransformersEngine(tiny), compiler=compiler, options=options) as memory:
        info = memory.remember(TEXT * 8, compile=False)
        advice, _ = examine(memory, info, TEXT * 8, AdvisorConfig(), datetime.now(UTC))
    own = registry.own_ratio(made_by(compiler), lambda: tiny)
    ratio = {"compact": 4.0, "lcc": 16.0, "lora": None}.get(compiler, own or USUAL_RATIO)
    positions = 0 if ratio is None else -(-advice.tokens // int(ratio))
    assert advice.latent_flops == FlopMeter(tiny.model).forward_flops(QUESTION, positions)


@pytest.mark.parametrize("compiler", NAMES)
def test_a_model_that_a_compiler_is_not_ready_for(
    home: Path, other_model_folder: Path, compiler: str
) -> None:
    """No compressor was trained for it: the advice is given, and compiling says what is missing."""
    other = TransformersEngine(load(str(other_model_folder)))
    with Memory(home, engine=other, compiler=compiler, options=TINY.get(compiler, {})) as memory:
        info = memory.remember(TEXT * 8, compile=False)
        advice, cost = examine(memory, info, TEXT * 8, AdvisorConfig(), datetime.now(UTC))
        assert advice.compile
        (task,) = plan(memory, Scope()).tasks
        ready = compiler != "meanpool"
        assert (cost is not None, task.seconds is not None, advice.break_even is not None) == (ready,) * 3
        if not ready:
            with pytest.raises(CompileError, match="train-compressor"):
                memory.compile(info.id)


@pytest.fixture(scope="module", params=NAMES)
def server(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    engine: TransformersEngine,
) -> Iterator[LiveServer]:
    folder, compiler = tmp_path_factory.mktemp("contract"), request.param
    options = TINY.get(compiler, {})
    config = ServerConfig(folder / "bank", "tiny", compiler=compiler, options=options, rate=100_000)
    with served(config, engine) as made:
        yield made


def compiled(client: httpx2.Client, server: LiveServer, memory_id: str) -> None:
    """Recompile what is due, and look how far it came."""
    job = client.post("/recompile", json={"always": True})
    assert job.status_code == 202, job.text
    server.settled()
    found = client.get(f"/recompile/{job.json()['id']}").json()
    assert (found["state"], found["error"]) == ("done", None)
    outcomes = [(o["user"], o["memory_id"], o["status"], o["version"]) for o in found["outcomes"]]
    assert outcomes == [("mira", memory_id, "compiled", 1)]


def test_the_server(server: LiveServer) -> None:
    compiler = made_by(server.services.config.compiler)
    with server.client("acme", "mira") as client:
        memory_id = remember(client, TEXT)
        left = client.get("/recompile/plan")
        assert left.status_code == 200, left.text
        planned = client.get("/recompile/plan", params={"always": True}).json()
        assert [(t["user"], t["memory_id"], t["reason"]) for t in planned["tasks"]] == [
            ("mira", memory_id, "not compiled yet")
        ]
        compiled(client, server, memory_id)
        assert client.get(f"/memories/{memory_id}").json()["compiler"] == compiler
        assert client.get(f"/memories/{memory_id}/artifact").json()["compiler"] == compiler
        asked = {"question": "Where does Mira live?", "max_tokens": 2, "gate": "rule"}
        answer = client.post("/ask", json=asked)
        assert (answer.status_code, answer.json()["route"]) == (200, "latent"), answer.text
        assert answer.json()["trace"]["memory_id"] == memory_id
        assert client.post(f"/memories/{memory_id}/compile").status_code == 202
        server.settled()
        assert client.get(f"/memories/{memory_id}").json()["error"] is None


@pytest.mark.skipif(not has_browser(), reason="no browser: apt-get install chromium chromium-driver")
def test_the_dashboard(server: LiveServer) -> None:
    from dashboard_kit import click, go, wait
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    compiler = made_by(server.services.config.compiler)
    with server.client("board", "mira") as client:
        memory_id = remember(client, TEXT, title="People")
        with browser() as driver:
            driver.get(server.url)
            wait(driver, "#field-api-key").send_keys(server.key("board"))
            driver.find_element(By.ID, "field-user").send_keys("mira", Keys.ENTER)
            wait(driver, "main td", "People")
            go(driver, "#/queue")
            click(driver, "Show what is due")
            wait(driver, "main table", memory_id)
            compiled(client, server, memory_id)
            wait(driver, "#jobs td", "People: compiled, version 1")
            go(driver, f"#/memory/{memory_id}")
            assert f"{compiler}, version" in driver.find_element(By.TAG_NAME, "main").text
            go(driver, "#/ask")
            wait(driver, "#field-question").send_keys("Where does Mira live?", Keys.ENTER)
            wait(driver, "#answer td", "People (used)")
            errors = [each for each in driver.get_log("browser") if each["level"] == "SEVERE"]  # type: ignore[no-untyped-call]
            assert errors == []
