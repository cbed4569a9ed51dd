"""The HTTP server: keys, errors, limits, and the memory API."""

from __future__ import annotations

import json
import secrets
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("limits")

import httpx2

from memkit.bench.http_server import LiveServer, remember, served
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import BankBusyError
from memkit.memory import Memory
from memkit.server.config import ServerConfig
from memkit.testing import TEXT, TINY_LCC

TOKEN = "a-token-of-the-scraper"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, engine: TransformersEngine) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("server")
    reports = folder / "reports"
    reports.mkdir()
    (reports / "1-figures.json").write_text('{"rows": [{"method": "lcc"}]}')
    (folder / "secret.json").write_text('{"secret": 1}')
    config = ServerConfig(
        folder / "bank",
        "tiny",
        **TINY_LCC,
        rate=100_000,
        metrics_token=TOKEN,
        reports=reports,
    )
    with served(config, engine) as running:
        yield running


@pytest.fixture
def client(server: LiveServer) -> Iterator[httpx2.Client]:
    """A client of a tenant that only this test has."""
    with server.client(f"tenant {secrets.token_hex(8)}") as made:
        yield made


def error_of(answer: httpx2.Response) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["error"]
    assert set(found) == {"message", "type", "param", "code", "request_id"}
    assert found["request_id"] == answer.headers["x-request-id"]
    return found


# -- keys -----------------------------------------------------------------------------------------
def test_health_needs_no_key(server: LiveServer) -> None:
    answer = httpx2.get(f"{server.url}/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")


def wrong_keys(server: LiveServer) -> dict[str, str | None]:
    bank = server.services.bank
    known, secret = bank.keys.create("acme")
    revoked, dead = bank.keys.create("acme")
    bank.keys.revoke("acme", revoked.id)
    return {
        "missing": None,
        "of another kind": "Basic YTpi",
        "empty": "Bearer",
        "unknown": "Bearer mk_0123456789abcdef_" + "x" * 43,
        "wrong": f"Bearer mk_{known.id}_" + "x" * 43,
        "nearly right": f"Bearer {secret[:-1]}",
        "revoked": f"Bearer {dead}",
        "not ASCII": "Bearer mk_é_é",
        "long": "Bearer " + "x" * 10_000,
    }


def test_whatever_is_no_key_gets_the_same_answer(server: LiveServer) -> None:
    bodies = set[str]()
    for header in wrong_keys(server).values():
        headers = {} if header is None else {"Authorization": header.encode("latin-1")}
        answer = httpx2.get(f"{server.url}/memories", headers=headers)  # type: ignore[arg-type] # bytes are fine
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        body = error_of(answer)
        body.pop("request_id")
        bodies.add(json.dumps(body))
    assert len(bodies) == 1


def test_an_unknown_key_takes_as_long_as_a_wrong_one(server: LiveServer) -> None:
    keys, took = wrong_keys(server), dict[str, list[float]]()
    with httpx2.Client(base_url=server.url) as client:
        for _ in range(60):
            for name in ("unknown", "wrong"):
                started = time.perf_counter()
                client.get("/memories", headers={"Authorization": str(keys[name])})
                took.setdefault(name, []).append(time.perf_counter() - started)
    unknown, wrong = (statistics.median(took[name]) for name in ("unknown", "wrong"))
    assert abs(unknown - wrong) < 0.5 * max(unknown, wrong)


# -- what is another's -----------------------------------------------------------------------------
PLACES = [
    ("GET", ""),
    ("DELETE", ""),
    ("GET", "/source"),
    ("GET", "/artifact"),
    ("GET", "/history"),
    ("GET", "/diff?older=1&newer=1"),
    ("POST", "/rollback"),
    ("POST", "/pin"),
    ("POST", "/compile"),
    ("POST", "/forget"),
]
BODIES = {"/rollback": {"version": 1}, "/pin": {}, "/forget": {"spans": [{"start": 0, "end": 4}]}}


@pytest.mark.parametrize(("method", "place"), PLACES)
def test_anothers_memory_is_as_unknown_as_nobodys(
    server: LiveServer, client: httpx2.Client, method: str, place: str
) -> None:
    mine = remember(client, TEXT)
    colleague = {"X-Memkit-User": "colleague"}
    with server.client("stranger") as stranger:
        for other in (stranger.headers, {**client.headers, **colleague}):
            said = []
            for memory_id in (mine, "0" * 16):
                url = f"{server.url}/memories/{memory_id}{place}"
                answer = httpx2.request(method, url, json=BODIES.get(place), headers=other)
                assert answer.status_code == 404
                said.append(error_of(answer)["message"].replace(memory_id, ""))
            assert said[0] == said[1]
    assert client.get(f"/memories/{mine}").status_code == 200


@pytest.mark.parametrize(
    "memory_id",
    ["..", "..%2f..%2fetc%2fpasswd", "%2e%2e%2f", "a" * 15, "A" * 16, "a" * 5000, "%00", "😀", "a'--", "%25"],
)
def test_ids_that_are_none(client: httpx2.Client, memory_id: str) -> None:
    assert client.get(f"/memories/{memory_id}/source").status_code == 404
    assert client.delete(f"/memories/{memory_id}").status_code in (404, 405)
    assert client.get(f"/recompile/{memory_id}").status_code in (200, 404)
    assert client.get(f"/reports/{memory_id}").status_code == 404 or memory_id == ".."


def test_users_of_a_tenant_are_apart(server: LiveServer) -> None:
    with server.client("users", "mira") as mira, server.client("users", "jalo") as jalo:
        with server.client("users") as nobody:
            mine = remember(mira, "Mira lives in Keldor.")
            for other in (jalo, nobody):
                assert other.get("/memories").json()["memories"] == []
                assert other.get(f"/memories/{mine}").status_code == 404
            remember(nobody, "The office is closed on Friday.")
            assert nobody.get("/users").json() == {"users": ["", "mira"]}
        assert len(mira.get("/memories").json()["memories"]) == 1


@pytest.mark.parametrize("user", ["a%ffb", "%ff", "x" * 1100, "%ed%a0%80"])
def test_names_of_users_that_are_none(server: LiveServer, user: str) -> None:
    with server.client("acme", user) as client:
        answer = client.get("/memories")
    assert answer.status_code == 400
    error_of(answer)


# -- bad input ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "body",
    ["{", "", "[]", "null", '{"text": 1}', '{"text": "a", "tetx": "b"}', "\x00", '{"text": "\\ud800"}'],
)
def test_a_body_that_is_not_valid(client: httpx2.Client, body: str) -> None:
    answer = client.post("/memories", content=body.encode(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert error_of(answer)["code"] in ("invalid_request", "http_error")


@pytest.mark.parametrize(
    "body",
    [
        {"text": " "},
        {"text": "a\0b"},
        {"text": "a", "messages": [{"role": "user", "content": "b"}]},
        {},
        {"text": "a", "when": "2020-01-01T00:00:00Z"},
        {"messages": [{"role": "user", "content": "a"}], "when": "9999-12-31T23:59:59-12:00"},
        {"messages": [{"role": "user", "content": "a"}], "when": "0001-01-01T00:00:00+12:00"},
        {"messages": [{"role": "user", "content": "a"}], "title": "t"},
        {"text": "a", "title": "two\nlines"},
        {"text": "a", "memory": "\n"},
        {"messages": []},
    ],
)
def test_what_cannot_be_remembered(client: httpx2.Client, body: dict[str, Any]) -> None:
    answer = client.post("/memories", json=body)
    assert answer.status_code == 400, answer.text
    error_of(answer)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_not_read(client: httpx2.Client, chunked: bool) -> None:
    sent = 0

    def parts() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(50):
            sent += 2**20
            yield b"x" * 2**20

    headers = {"Content-Type": "application/json"} | ({} if chunked else {"Content-Length": str(50 * 2**20)})
    answer = client.post("/memories", content=parts(), headers=headers)
    assert answer.status_code == 413
    assert error_of(answer)["code"] in ("body_too_large", "http_error")
    assert sent < 40 * 2**20
    assert client.get("/health").status_code == 200


def test_what_goes_wrong_inside_stays_inside(
    server: LiveServer, client: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the password is hunter2")

    monkeypatch.setattr(server.services.bank, "list", broken)
    answer = client.get("/memories")
    assert answer.status_code == 500
    assert "hunter2" not in answer.text
    assert error_of(answer)["type"] == "server_error"


def test_a_bank_that_cannot_be_used(
    server: LiveServer, client: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object) -> None:
        raise BankBusyError("another process holds /srv/bank")

    monkeypatch.setattr(server.services.bank, "list", busy)
    answer = client.get("/memories")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "/srv" not in answer.text


def test_addresses_and_methods_that_are_none(client: httpx2.Client) -> None:
    assert error_of(client.get("/nothing"))["type"] == "not_found_error"
    assert client.put("/memories", json={}).status_code == 405


def test_request_ids(client: httpx2.Client) -> None:
    assert client.get("/health", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert client.get("/health", headers={"X-Request-Id": "a b"}).headers["x-request-id"] != "a b"


def test_a_key_may_ask_only_so_often(tmp_path: Path, engine: TransformersEngine) -> None:
    config = ServerConfig(tmp_path / "bank", "tiny", rate=5)
    with served(config, engine) as running, running.client("a") as one, running.client("a") as two:
        answers = [one.get("/memories") for _ in range(6)]
        assert [each.status_code for each in answers] == [200] * 5 + [429]
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert error_of(answers[-1])["type"] == "rate_limit_error"
        assert [each.headers["x-ratelimit-remaining"] for each in answers[:2]] == ["4", "3"]
        assert two.get("/memories").status_code == 200  # another key


def test_pages_of_other_hosts_may_call_only_where_that_is_said(
    server: LiveServer, tmp_path: Path, engine: TransformersEngine
) -> None:
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}
    answer = httpx2.options(f"{server.url}/memories", headers=asked)
    assert "access-control-allow-origin" not in answer.headers
    config = ServerConfig(tmp_path / "bank", "tiny", origins=("https://app.example",))
    with served(config, engine) as running:
        answer = httpx2.options(f"{running.url}/memories", headers=asked)
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        other = httpx2.options(f"{running.url}/memories", headers={**asked, "Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate", 0),
        ("port", 70_000),
        ("answer_timeout", 0.0),
        ("upstream", "ftp://x"),
        ("upstream", "127.0.0.1:8377/v1"),
        ("metrics_token", "short"),
    ],
)
def test_settings_that_are_wrong(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        ServerConfig(tmp_path, **{name: value})


# -- about ----------------------------------------------------------------------------------------
def test_metrics_are_behind_a_token(server: LiveServer, client: httpx2.Client) -> None:
    remember(client, TEXT)
    client.post("/ask", json={"question": "Where does Mira live?", "max_tokens": 2})
    assert client.get("/metrics").status_code == 404
    answer = httpx2.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    assert "memkit_answers_total" in answer.text
    assert "tenant" not in answer.text


def test_reports(client: httpx2.Client) -> None:
    assert client.get("/reports").json() == {"reports": ["1-figures"]}
    assert client.get("/reports/1-figures").json()["rows"] == [{"method": "lcc"}]
    for name in ("secret", "..%2fsecret", "../secret"):
        assert client.get(f"/reports/{name}").status_code == 404


def test_the_description_is_whole(server: LiveServer) -> None:
    described = httpx2.get(f"{server.url}/openapi.json").json()
    assert {"/memories", "/ask", "/recompile", "/v1/chat/completions", "/health"} <= set(described["paths"])
    ids = [how["operationId"] for place in described["paths"].values() for how in place.values()]
    assert len(ids) == len(set(ids))
    # Arrays of different items are described in a way that many clients, and checkers, do not read.
    answers = {name: schema for name, schema in described["components"]["schemas"].items() if "Out" in name}
    assert len(answers) > 10
    assert not [name for name, schema in answers.items() if "prefixItems" in str(schema)]


def test_a_server_goes_on_with_what_waited(tmp_path: Path, engine: TransformersEngine) -> None:
    config = ServerConfig(tmp_path / "bank", "tiny", **TINY_LCC)
    with Memory(config.home, engine=engine, tenant="acme", user="mira") as before:
        info = before.remember(TEXT, compile=False)
        before.bank.pending.add(before.owner, info.id)
    with served(config, engine) as running, running.client("acme", "mira") as client:
        running.settled()
        assert client.get(f"/memories/{info.id}").json()["version"] == 1
        assert running.services.bank.pending.all() == []
