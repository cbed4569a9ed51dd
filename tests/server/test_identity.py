"""No value that a caller can send reaches another tenant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("limits")

import httpx2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memkit.bank.owners import Owner
from memkit.bench.http_server import LiveServer, remember, served
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ConfigError
from memkit.server.config import ServerConfig
from memkit.server.identity import Caller, header_text
from memkit.testing import TEXT

names = st.text(st.characters(codec="utf-8"), max_size=12) | st.text("ab/%. \x00\u2215", max_size=6)
TENANTS = ("acme", "acm", "acme2", "Acme", "e/acme".replace("/", " "))
SECRET = "The vault of {} is under the {}."


def owner(tenant: str, user: str) -> str | None:
    try:
        return Caller(tenant, user).owner
    except ConfigError:
        return None


@settings(max_examples=2000)
@given(names, names, names, names)
def test_two_callers_are_one_owner_only_where_they_are_the_same(a: str, b: str, c: str, d: str) -> None:
    one, two = owner(a, b), owner(c, d)
    if one is not None and one == two:
        assert (a, b) == (c, d)


@settings(max_examples=1000)
@given(names, names, st.lists(st.tuples(names, names)))
def test_a_tenants_users_are_its_own(tenant: str, user: str, others: list[tuple[str, str]]) -> None:
    mine = owner(tenant, user)
    if mine is None or not tenant:
        return
    caller, callers = Caller(tenant, user), [(tenant, user), *others]
    owners = {name for each in callers if (name := owner(*each)) is not None}
    alone = {Owner(user).name for _, user in others if user and owner("t", user) is not None}
    expected = {of for whose, of in callers if whose == tenant and owner(whose, of) is not None}
    assert caller.users([*owners, *alone, f"{mine}#notes"]) == sorted(expected)


@given(names, names)
def test_a_users_key_is_that_user_of_no_tenant(user: str, other: str) -> None:
    try:
        caller = Caller(user, "", "user")
    except ConfigError:
        return
    assert caller.owner == Owner(user).name != owner(user, "")
    assert caller.users([caller.owner, f"{caller.owner}/", "b/b"]) == [""]
    if other not in ("", user):
        with pytest.raises(ConfigError):
            Caller(user, other, "user")


@given(st.text(st.characters(codec="utf-8")))
def test_a_header_carries_any_name(name: str) -> None:
    assert header_text(quote(name)) == name


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, engine: TransformersEngine) -> Iterator[LiveServer]:
    with served(ServerConfig(tmp_path_factory.mktemp("s") / "bank", "tiny", rate=10**6), engine) as running:
        yield running


@pytest.fixture(scope="module")
def clients(server: LiveServer) -> Iterator[dict[str, httpx2.Client]]:
    """A client of each tenant, whose memories and whose user's tell whose they are."""
    made = {tenant: server.client(tenant) for tenant in TENANTS}
    for tenant, client in made.items():
        remember(client, SECRET.format(tenant, "tenant"))
        client.headers["X-Memkit-User"] = "mira"
        remember(client, SECRET.format(tenant, "user"))
        del client.headers["X-Memkit-User"]
    yield made
    for client in made.values():
        client.close()


sent = st.sampled_from(
    [
        *TENANTS,
        "",
        "mira",
        "acme/mira",
        "/acme",
        "../acme",
        "acme%2Fmira",
        "acme\0mira",
        "mira ",
        "MIRA",
        "*",
        "%",
    ]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(TENANTS), sent | names, sent | names, st.booleans())
def test_whatever_is_sent_only_ones_own_is_seen(
    clients: dict[str, httpx2.Client], tenant: str, header: str, user: str, ask: bool
) -> None:
    client, headers = clients[tenant], {"X-Memkit-User": quote(header)} if header else {}
    if ask:
        body = {"model": "tiny", "user": user, "max_tokens": 1}
        asked = [{"role": "user", "content": "Where is the vault?"}]
        answer = client.post("/v1/chat/completions", headers=headers, json={**body, "messages": asked})
        assert answer.status_code in (200, 400)
        used = answer.json().get("memkit", {}).get("memory_id")
        owned = {m["id"] for who in ("", "mira") for m in listed(client, who)}
        assert used is None or used in owned
    else:
        answer = client.get("/memories", headers=headers)
        assert answer.status_code in (200, 400)
        for memory in answer.json().get("memories", ()):
            text = client.get(f"/memories/{memory['id']}/source", headers=headers).json()["text"]
            assert text in (SECRET.format(tenant, "tenant"), SECRET.format(tenant, "user"))


def listed(client: httpx2.Client, user: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = client.get(
        "/memories", headers={"X-Memkit-User": user} if user else {}
    ).json()["memories"]
    return found


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


def test_names_in_every_script_are_users_apart(server: LiveServer) -> None:
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


def test_a_tenant_may_have_any_name(server: LiveServer) -> None:
    with server.client("globex/mira") as tenant, server.client("globex", "mira") as mira:
        mine, hers = remember(tenant, TEXT), remember(mira, TEXT)
        for client, memory_id in ((tenant, mine), (mira, hers)):
            (only,) = client.get("/memories").json()["memories"]
            assert only["id"] == memory_id
    owners = server.services.bank.tenants()
    assert {"globex%2Fmira/", "globex/mira"} <= set(owners)


def test_a_key_of_a_user_is_that_user_of_no_tenant(server: LiveServer) -> None:
    _, secret = server.services.bank.keys.create("mira", scope="user")
    with server.client("mira") as tenant, httpx2.Client(base_url=server.url) as client:
        client.headers["Authorization"] = f"Bearer {secret}"
        remember(client, TEXT)
        assert len(server.services.bank.list("mira")) == 1
        assert tenant.get("/memories").json()["memories"] == []
        assert client.get("/users").json()["users"] == [""]
        assert client.get("/memories", headers={"X-Memkit-User": "jalo"}).status_code == 400
