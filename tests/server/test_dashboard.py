"""The dashboard in a real browser: what it shows, that nothing in it runs, and that all can use it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("selenium")

import httpx2
from dashboard_kit import click, go, wait
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from memkit.bench.http_server import LiveServer, browser, has_browser, served
from memkit.compilers.base import Progress, Step
from memkit.engine.transformers.engine import TransformersEngine
from memkit.pipeline.compile_job import try_compile
from memkit.pipeline.context import Context
from memkit.server.config import ServerConfig
from memkit.server.routes import ask
from memkit.testing import TEXT, TINY_LCC

AXE = Path(sys.prefix) / "npm" / "node_modules" / "axe-core" / "axe.min.js"
EVIL = "<img src=x onerror=\"document.title='owned'\"><script>window.owned = 1</script>"
PAGES = ["#/", "#/ask", "#/queue", "#/reports", "#/reports/1-rows", "#/api"]
REPORT = {
    "model": "nano",
    "rows": [
        {
            "method": EVIL,
            "ratio": 4.0,
            "n": 160,
            "curve": [["lora", 0, 5.2], ["lora", 5, 0.4], ["kv", 5, 0.1]],
        },
        {"method": "none", "ratio": None, "n": 160, "curve": []},
    ],
    "calibrations": {"lcc": {"risk_coverage": [[0.1, 0.0], [1.0, 0.2]]}},
}

pytestmark = pytest.mark.skipif(
    not has_browser(), reason="no browser: apt-get install chromium chromium-driver"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, engine: TransformersEngine) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "reports").mkdir()
    (folder / "reports" / "1-rows.json").write_text(json.dumps(REPORT))
    config = ServerConfig(folder / "bank", "tiny", **TINY_LCC, rate=100_000, reports=folder / "reports")
    with served(config, engine) as running:
        yield running


@pytest.fixture(scope="module")
def log_id(server: LiveServer) -> str:
    """A running memory with two versions, beside two documents of the same user."""
    with server.client("acme", "mira") as client:
        client.post("/memories", json={"text": TEXT, "title": "People of Keldor"})
        client.post("/memories", json={"text": f"Rolan keeps bees in Tarv. {EVIL}", "title": EVIL})
        server.settled()
        memory_id = ""
        for line in ("Mira moved to Oslo.", f"Her cat is called {EVIL}"):
            said = {"text": line, "memory": "profile"}
            memory_id = client.post("/memories", json=said).json()["memory"]["id"]
            client.post(f"/memories/{memory_id}/compile")
            server.settled()
    return memory_id


@pytest.fixture(scope="module")
def driver(server: LiveServer, log_id: str) -> Iterator[WebDriver]:
    with browser() as made:
        enter(made, server)
        yield made


def enter(driver: WebDriver, server: LiveServer) -> None:
    """Sign in by hand."""
    driver.get(server.url)
    wait(driver, "#field-api-key").send_keys(server.key("acme"))
    driver.find_element(By.ID, "field-user").send_keys("mira", Keys.ENTER)
    WebDriverWait(driver, 10).until(lambda d: d.find_elements(By.CSS_SELECTOR, "main table"))


def test_a_wrong_key_is_told(server: LiveServer) -> None:
    with browser() as made:
        made.get(server.url)
        wait(made, "#field-api-key").send_keys("mk_wrong", Keys.ENTER)
        wait(made, "[role=alert]", "valid API key")
        assert made.execute_script("return sessionStorage.length") == 0


def test_the_bank(driver: WebDriver) -> None:
    go(driver, "#/")
    text = driver.find_element(By.TAG_NAME, "main").text
    assert "Memories of mira" in text
    assert "People of Keldor" in text
    assert EVIL in text
    wait(driver, "nav a[aria-current=page]", "Bank")


def test_users_are_chosen(driver: WebDriver) -> None:
    go(driver, "#/")
    Select(wait(driver, "#who")).select_by_value("")
    wait(driver, "main h1", "Memories of acme")
    wait(driver, "main p", "Nothing is remembered yet.")
    Select(wait(driver, "#who")).select_by_value("mira")
    wait(driver, "main h1", "Memories of mira")


def test_one_memory(driver: WebDriver, server: LiveServer, log_id: str) -> None:
    go(driver, f"#/memory/{log_id}")
    main = driver.find_element(By.TAG_NAME, "main")
    assert "Mira moved to Oslo." in main.text
    assert "the artifact was made of characters" in main.text
    assert [each.get_attribute("role") for each in main.find_elements(By.TAG_NAME, "svg")] == ["img"] * 2
    assert "Loss of the newest compilation" in main.text
    click(driver, "Compare")
    wait(driver, "main td", "only in the newer")
    click(driver, "Roll back to 1")
    wait(driver, "main button", "Roll back to 2")
    click(driver, "Pin version 1")
    wait(driver, "main button", "Unpin")
    with server.client("acme", "mira") as client:
        info = client.get(f"/memories/{log_id}").json()
    assert (info["version"], info["pinned"]) == (1, True)


def test_an_answer_shows_why(driver: WebDriver) -> None:
    go(driver, "#/ask")
    wait(driver, "#field-question").send_keys("Where does Mira live?", Keys.ENTER)
    wait(driver, "#answer h2", "Memories that were weighed")
    text = wait(driver, "#answer").text
    for part in ("Because", "Margin", "Similarity", "(used)"):
        assert part in text
    assert wait(driver, "#answer mark").text


REASON = (
    "text, because the artifact may have lost this (it answers right with probability 0.86, 0.99 is needed)"
)
TIMES = {"route_ms": 48.8, "ttft_ms": 0.129, "total_ms": 20.0}
TRACE = {"gate": "learned", "margin": 0.726, "reason": REASON, **TIMES}
ENTROPY = {**TRACE, "gate": "entropy"}
SHOWN = [
    (TRACE, "text", "the score of the text, which is read, is 0.726 above its threshold"),
    ({**TRACE, "margin": -0.2}, "none", "the score is 0.2 below its threshold"),
    ({**TRACE, "margin": 0.01}, "latent", "the score of the artifact is 0.01 above its threshold"),
    ({**TRACE, "gate": "rule", "margin": 0.3}, "text", "the similarity is 0.3 above its threshold"),
    ({**TRACE, "gate": "rule", "margin": -0.3}, "none", "the similarity is 0.3 below its threshold"),
    (
        {**TRACE, "gate": "entropy", "margin": 0.5},
        "latent",
        "the entropy, in nats, is 0.5 below its threshold",
    ),
    (
        {**TRACE, "gate": "entropy", "margin": -0.5},
        "none",
        "the entropy, in nats, is 0.5 above its threshold",
    ),
]


@pytest.mark.parametrize(("trace", "route", "margin"), SHOWN)
def test_margins_and_times_say_of_what(
    driver: WebDriver, monkeypatch: pytest.MonkeyPatch, trace: dict[str, Any], route: Any, margin: str
) -> None:
    class Answers:
        def __init__(self, request: Any) -> None:
            self._answers = request.app.state.answers

        async def answer(self, *arguments: Any) -> Any:
            found = await self._answers.answer(*arguments)
            return replace(found, route=route, trace=replace(found.trace, route=route, **trace))

    monkeypatch.setattr(ask, "answers_of", Answers)
    go(driver, "#/")
    go(driver, "#/ask")
    wait(driver, "#field-question").send_keys("Where does Mira live?", Keys.ENTER)
    assert margin in wait(driver, "#answer dl", REASON).text
    time = "48.9 ms to the first token, 48.8 ms of them to choose the memory; 68.8 ms in all"
    assert time in driver.find_element(By.CSS_SELECTOR, "#answer dl").text


LONG = "Достопримечательность" * 9
NAMES = ["a/b", "👩‍👩‍👧‍👦", "می‌خواهم", " \u00a0x ", LONG, "e\u0301", "\u200b", EVIL]


def test_users_in_every_script(driver: WebDriver, server: LiveServer) -> None:
    with server.client("acme") as client:
        for number, name in enumerate(NAMES):
            user = {"X-Memkit-User": quote(name)}
            made = {"text": f"It is number {number}.", "title": f"number {number}", "compile": False}
            assert client.post("/memories", json=made, headers=user).status_code == 201
    go(driver, "#/reports")
    go(driver, "#/")
    wait(driver, "#who option", "a/b")
    assert set(NAMES) <= {each.get_attribute("value") for each in Select(wait(driver, "#who")).options}
    for number, name in enumerate(NAMES):
        choose(driver, name)
        wait(driver, "main td", f"number {number}")
        assert len(driver.find_elements(By.CSS_SELECTOR, "main tbody tr")) == 1
        assert driver.execute_script("return sessionStorage.getItem('memkit-user')") == name
        heading = wait(driver, "main h1", "Memories of").get_attribute("textContent")
        assert heading == f"Memories of {'%E2%80%8B' if name == NAMES[6] else name}"
    choose(driver, "mira")
    wait(driver, "main h1", "Memories of mira")


def choose(driver: WebDriver, name: str) -> None:
    """Choose a user in the list, once it knows them; the driver types no emoji."""
    script = """const it = document.getElementById('who'); it.value = arguments[0];
        return it.value === arguments[0] && it.dispatchEvent(new Event('change'))"""
    WebDriverWait(driver, 10).until(lambda d: d.execute_script(script, name))


def test_a_key_of_one_user(server: LiveServer) -> None:
    secret = server.services.bank.keys.create("solo", scope="user")[1]
    with browser() as made:
        made.get(server.url)
        wait(made, "#field-api-key").send_keys(secret, Keys.ENTER)
        wait(made, "main h1", "Memories of solo")
        wait(made, "#who option", "solo")
        assert [each.text for each in Select(wait(made, "#who")).options] == ["solo"]


def test_the_queue_shows_progress(
    driver: WebDriver, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(context: Context, memory_id: str, *, progress: Progress) -> Any:
        for step in range(30):
            progress(Step("lora", step, 30, 1.5, 0.1))
            time.sleep(0.15)
        return try_compile(context, memory_id, progress=progress)

    monkeypatch.setattr("memkit.pipeline.compile_job.try_compile", slowly)
    go(driver, "#/queue")
    with server.client("acme", "mira") as client:
        text = f"{TEXT} Vekek works at Palhus."
        memory_id = client.post("/memories", json={"text": text}).json()["memory"]["id"]
    wait(driver, "#jobs progress")
    wait(driver, "#jobs .soft", "of 30, loss 1.5")
    server.settled()
    wait(driver, "#jobs td", f"{memory_id}: compiled")
    click(driver, "Show what is due")
    wait(driver, "main h2", "What is due")


def test_reports(driver: WebDriver) -> None:
    go(driver, "#/reports/1-rows")
    text = driver.find_element(By.TAG_NAME, "main").text
    assert EVIL in text
    assert "Training loss" in text
    assert "by the share of questions left to them" in text


def test_remembering_and_forgetting(driver: WebDriver, server: LiveServer) -> None:
    go(driver, "#/")
    wait(driver, "#field-title").send_keys("A new one")
    wait(driver, "#field-text").send_keys("Jalo works at Brimtek.")
    click(driver, "Remember")
    wait(driver, "main h1", "A new one")
    server.settled()
    click(driver, "Forget")
    wait(driver, "dialog button", "Forget").click()
    wait(driver, "main h1", "Memories of mira")
    assert "A new one" not in driver.find_element(By.CSS_SELECTOR, "main table").text


def test_nothing_in_a_document_runs(driver: WebDriver, log_id: str) -> None:
    for page in [*PAGES, f"#/memory/{log_id}"]:
        go(driver, page)
        assert driver.title != "owned"
        assert driver.execute_script("return window.owned") is None
        assert driver.find_elements(By.CSS_SELECTOR, "main img, main script") == []


def test_the_policy_of_the_page_forbids_scripts_from_elsewhere(server: LiveServer) -> None:
    policy = httpx2.get(server.url).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for name in ("index.html", "app.js", "style.css"):
        assert httpx2.get(f"{server.url}/pages/{name}").status_code == 200
    for name in ("nothing.js", "..%2fapp.py", "%2e%2e/app.py"):
        assert httpx2.get(f"{server.url}/pages/{name}").status_code == 404


def test_the_keyboard_reaches_everything(driver: WebDriver) -> None:
    go(driver, "#/")
    driver.execute_script("document.body.tabIndex = -1; document.body.focus()")
    active = driver.switch_to.active_element
    active.send_keys(Keys.TAB)
    assert driver.switch_to.active_element.text == "Skip to the content"
    seen = set[str]()
    for _ in range(30):
        driver.switch_to.active_element.send_keys(Keys.TAB)
        seen.add(driver.switch_to.active_element.text.strip())
    assert {"Bank", "Ask", "Queue", "Sign out", "People of Keldor", "Remember"} <= seen


@pytest.mark.skipif(not AXE.exists(), reason=f"no axe-core: npm install --prefix {sys.prefix}/npm axe-core")
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (360, False)])
def test_accessibility(server: LiveServer, log_id: str, width: int, dark: bool) -> None:
    with browser(width, 900, dark=dark) as made:
        made.get(server.url)
        wait(made, "#field-api-key")
        assert violations(made) == []
        enter(made, server)
        for page in [*PAGES, f"#/memory/{log_id}"]:
            go(made, page)
            if page == "#/ask":
                wait(made, "#field-question").send_keys("Where does Mira live?", Keys.ENTER)
                wait(made, "#answer h2", "Memories that were weighed")
            if page.startswith("#/memory"):
                click(made, "Compare")
                wait(made, "main caption", "What they showed")
            assert violations(made) == []
            wide = made.execute_script("return document.documentElement.scrollWidth")
            assert wide <= width, f"{page} is {wide} wide"
        errors = [each for each in made.get_log("browser") if each["level"] == "SEVERE"]  # type: ignore[no-untyped-call]
        assert errors == []


def violations(driver: WebDriver) -> list[str]:
    """What axe-core finds fault with."""
    # Through the debugger, as the page's policy lets no script in.
    driver.execute_cdp_cmd("Runtime.evaluate", {"expression": AXE.read_text()})
    script = "const done = arguments[0]; axe.run(document).then((r) => done(r.violations))"
    found = driver.execute_async_script(script)
    return [f"{v['id']}: {v['nodes'][0]['html']}" for v in found]
