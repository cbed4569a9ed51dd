"""What is another's on the server: ids, tenants and users in any script."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("limits")

import httpx2
from server_kit import TOKEN, error_of

from memkit.engine.transformers import TransformersEngine
from memkit.server.config import ServerConfig
from memkit.server.testing import Served, remember, served
from memkit.testing import TEXT, TINY_OPTIONS


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, engine: TransformersEngine) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("server")
    reports = folder / "reports"
    reports.mkdir()
    (reports / "1-figures.json").write_text('{"rows": [{"method": "lcc"}]}')
    (folder / "secret.json").write_text('{"secret": 1}')
    config = ServerConfig(
        folder / "bank",
        "tiny",
        options=TINY_OPTIONS,
        rate=100_000,
        metrics_token=TOKEN,
        reports=reports,
    )
    with served(config, engine) as running:
        yield running


@pytest.fixture
def client(server: Served) -> Iterator[httpx2.Client]:
    """A client of a tenant that only this test has."""
    with server.client(f"tenant {secrets.token_hex(8)}") as made:
        yield made


def test_a_tenant_may_have_any_name(server: Served) -> None:
    with server.client("acme/mira") as tenant, server.client("acme", "mira") as mira:
        mine, hers = remember(tenant, TEXT), remember(mira, TEXT)
        for client, memory_id in ((tenant, hers), (mira, mine)):
            others = {each["id"] for each in client.get("/memories").json()["memories"]}
            assert len(others) == 1
            assert (memory_id in others) == (mine == hers)


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
    server: Served, client: httpx2.Client, method: str, place: str
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


def test_users_of_a_tenant_are_apart(server: Served) -> None:
    with server.client("users", "mira") as mira, server.client("users", "jalo") as jalo:
        with server.client("users") as nobody:
            mine = remember(mira, "Mira lives in Keldor.")
            for other in (jalo, nobody):
                assert other.get("/memories").json()["memories"] == []
                assert other.get(f"/memories/{mine}").status_code == 404
            remember(nobody, "The office is closed on Friday.")
            told = {"tenant": "users", "scope": "tenant", "users": ["", "mira"]}
            assert nobody.get("/users").json() == told
        assert len(mira.get("/memories").json()["memories"]) == 1


NAMES = [
    "a/b",
    "/",
    "acme/",
    "a#b",
    "100%",
    "%2F",
    " a ",
    "x" * 500,
    "👩‍👩‍👧‍👦",
    "می‌خواهم",
    "a\u00a0b",
    "\u00a0",
    "Достопримечательность" * 20,
    "é",
    "e\u0301",
    "Ａ",
    "A",
    "ﬁ",
    "\u2028",
    "\u200b",
    "<b>",
    "a\nb",
    "a\0b",
]


def test_names_in_every_script_are_users_apart(server: Served) -> None:
    """As a header, percent-encoded or raw; and as the field `user` of an OpenAI request."""
    with server.client("scripts") as client:
        for name in NAMES:
            made = remember_as(client, name, f"The code of this one is {NAMES.index(name)}.")
            assert made["text"].endswith(f"{NAMES.index(name)}.")
        assert client.get("/users").json()["users"] == sorted(NAMES)
        for name in NAMES:
            (mine,) = client.get("/memories", headers={"X-Memkit-User": quote(name)}).json()["memories"]
            chat = {"model": "tiny", "user": name, "max_tokens": 1}
            asked = [{"role": "user", "content": "What is the code of this one?"}]
            used = client.post("/v1/chat/completions", json={**chat, "messages": asked}).json()["memkit"]
            assert (used["user"], used["memory_id"]) == (name, mine["id"])
            if name.isprintable() and "%" not in name and name == name.strip():
                raw = {"X-Memkit-User": name.encode()}
                found = httpx2.get(f"{server.url}/memories", headers={**raw, **auth(client)})  # type: ignore[arg-type]
                assert [each["id"] for each in found.json()["memories"]] == [mine["id"]]
            planned = client.get("/recompile/plan", params={"user": name, "always": True}).json()
            assert [(each["user"], each["memory_id"]) for each in planned["tasks"]] == [(name, mine["id"])]


def auth(client: httpx2.Client) -> dict[str, bytes]:
    return {"Authorization": client.headers["Authorization"].encode()}


def remember_as(client: httpx2.Client, user: str, text: str) -> dict[str, Any]:
    headers = {"X-Memkit-User": quote(user)}
    made = client.post("/memories", json={"text": text, "compile": False}, headers=headers)
    assert made.status_code == 201, made.text
    found: dict[str, Any] = client.get(
        f"/memories/{made.json()['memory']['id']}/source", headers=headers
    ).json()
    return found


@pytest.mark.parametrize("user", ["a%ffb", "%ff", "x" * 1100, "%ed%a0%80"])
def test_names_of_users_that_are_none(server: Served, user: str) -> None:
    with server.client("acme", user) as client:
        answer = client.get("/memories")
    assert answer.status_code == 400
    error_of(answer)
