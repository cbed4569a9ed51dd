"""The memory API over HTTP: remember, ask, versions, recompilation, forgetting."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("limits")

import httpx2

from memkit.bank.owners import Owner
from memkit.bench.http_server import LiveServer, remember, served
from memkit.engine.transformers.engine import TransformersEngine
from memkit.server.config import ServerConfig
from memkit.testing import TEXT, TINY_LCC

NAMES = (
    "\N{WOMAN}\u200d\N{PERSONAL COMPUTER}",
    "\u0645\u06cc\u200c\u062e",
    "10\u00a0km",
)  # joined, Persian, no-break
QUESTION = {"question": "Where does Mira live?", "max_tokens": 4}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, engine: TransformersEngine) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("server")
    config = ServerConfig(folder / "bank", "tiny", **TINY_LCC, rate=100_000)
    with served(config, engine) as running:
        yield running


@pytest.fixture
def client(server: LiveServer) -> Iterator[httpx2.Client]:
    with server.client(f"tenant {secrets.token_hex(8)}") as made:
        yield made


def ok(answer: httpx2.Response, status: int = 200) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def compiled(server: LiveServer, client: httpx2.Client, text: str = TEXT) -> str:
    memory_id = remember(client, text)
    ok(client.post(f"/memories/{memory_id}/compile"), 202)
    server.settled()
    return memory_id


def test_a_document_is_compiled_in_the_background(server: LiveServer, client: httpx2.Client) -> None:
    found = ok(client.post("/memories", json={"text": TEXT, "title": "people"}), 201)
    job = found["job"]
    server.settled()
    done = ok(client.get(f"/recompile/{job}"))
    assert (done["kind"], done["state"], done["outcomes"][0]["status"]) == ("compile", "done", "compiled")
    shown = ok(client.get(f"/memories/{found['memory']['id']}"))
    assert (shown["status"], shown["version"], shown["title"]) == ("compiled", 1, "people")
    again = ok(client.post("/memories", json={"text": TEXT}), 201)
    assert (again["memory"]["id"], again["job"]) == (shown["id"], None)


def test_an_answer_tells_why(server: LiveServer, client: httpx2.Client) -> None:
    memory_id = remember(client, TEXT)
    answer = client.post("/ask", json=QUESTION)
    found = ok(answer)
    assert (found["route"], found["trace"]["memory_id"]) == ("text", memory_id)
    assert found["trace"]["candidates"][0]["similarity"] > 0
    assert (answer.headers["x-memkit-route"], answer.headers["x-memkit-memory"]) == ("text", memory_id)
    span = found["trace"]["spans"][0]
    source = ok(client.get(f"/memories/{memory_id}/source"))
    assert "Mira" in source["text"][span["start"] : span["end"]]


def test_a_question_within_one_memory(server: LiveServer, client: httpx2.Client) -> None:
    remember(client, TEXT)
    bees = remember(client, "Rolan keeps bees in Tarv.")
    found = ok(client.post("/ask", json={**QUESTION, "within": bees}))
    assert [each["memory_id"] for each in found["trace"]["candidates"]] == [bees]
    assert client.post("/ask", json={**QUESTION, "within": "0" * 16}).status_code == 404
    with server.client("stranger") as stranger:
        assert stranger.post("/ask", json={**QUESTION, "within": bees}).status_code == 404


@pytest.mark.parametrize(
    "more",
    [
        {"question": " "},
        {"question": "a " * 2000},
        {"max_tokens": 0},
        {"temperature": -1},
        {"temperature": "NaN"},
        {"gate": "open"},
        {"gate": "learned"},  # nothing is calibrated
        {"history": [["a"]]},
        {"who": "x"},
    ],
)
def test_questions_that_cannot_be_asked(client: httpx2.Client, more: dict[str, Any]) -> None:
    remember(client, TEXT)
    answer = client.post("/ask", json={**QUESTION, **more})
    assert answer.status_code == 400, answer.text


def test_a_running_memory(client: httpx2.Client) -> None:
    said = [{"role": "user", "content": "I live in Lima.", "when": "2026-01-05T00:00:00Z"}]
    first = ok(client.post("/memories", json={"messages": said, "memory": "profile", "key": "1"}), 201)
    again = ok(client.post("/memories", json={"messages": said, "memory": "profile", "key": "1"}), 201)
    assert first["memory"] == again["memory"]
    moved = ok(client.post("/memories", json={"text": "I moved to Oslo.", "memory": "profile"}), 201)[
        "memory"
    ]
    assert (moved["id"], moved["entries"], moved["behind"]) == (first["memory"]["id"], 2, 2)
    source = ok(client.get(f"/memories/{moved['id']}/source"))
    assert [entry["speaker"] for entry in source["entries"]] == ["user", "user"]
    gone = ok(client.post(f"/memories/{moved['id']}/forget", json={"matching": "Lima"}))
    assert gone["receipts"][0]["left"] == moved["id"]
    assert "Lima" not in ok(client.get(f"/memories/{moved['id']}/source"))["text"]


def test_messages_as_chat_apis_have_them(client: httpx2.Client) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    said = [
        {"role": "user", "name": "Mira", "content": [{"type": "text", "text": "I live in Lima."}, image]},
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "It rains."},
        {"role": "user", "content": ""},
    ]
    made = ok(client.post("/memories", json={"messages": said}), 201)["memory"]
    source = ok(client.get(f"/memories/{made['id']}/source"))
    assert [entry["speaker"] for entry in source["entries"]] == ["user", "tool"]
    lines = [source["text"][entry["start"] : entry["end"]] for entry in source["entries"]]
    assert [line.rstrip()[-15:] for line in lines] == ["I live in Lima.", "tool: It rains."]
    for wrong in ({"role": "user", "content": "a", "whne": "2026"}, {"role": "user", "content": None}):
        assert client.post("/memories", json={"messages": [wrong]}).status_code == 400


@pytest.mark.parametrize("name", NAMES)
def test_names_and_titles_with_joined_characters(client: httpx2.Client, name: str) -> None:
    said = [{"role": name, "content": "I live in Lima."}]
    made = ok(client.post("/memories", json={"messages": said, "memory": name, "key": name}), 201)
    assert made["memory"]["name"] == name
    titled = ok(client.post("/memories", json={"text": TEXT, "title": name}), 201)
    assert titled["memory"]["title"] == name
    for bad in ("a\nb", "a\0b", "a\u2028b", "\x1b[31m"):
        for body in ({"text": "b", "title": bad}, {"text": "b", "memory": bad}):
            assert client.post("/memories", json=body).status_code == 400


def test_a_history_of_what_tools_said_and_of_images(client: httpx2.Client) -> None:
    remember(client, TEXT)
    plain = [{"role": "user", "content": "Who is Mira?"}, {"role": "assistant", "content": "A person."}]
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]}
    full = [
        {"role": "user", "content": [{"type": "text", "text": "Who is Mira?"}, image]},
        call,
        {"role": "tool", "content": "found", "tool_call_id": "1"},
        plain[1],
    ]
    said = []
    for history in (plain, full):
        answer = client.post("/ask", json={**QUESTION, "history": history})
        assert answer.status_code == 200, answer.text
        said.append((answer.json()["text"], answer.json()["trace"]["prompt_tokens"]))
    assert said[0] == said[1]


def test_versions(server: LiveServer, client: httpx2.Client) -> None:
    say = {"messages": [{"role": "user", "content": "Mira lives in Keldor."}], "memory": "log"}
    memory_id = ok(client.post("/memories", json=say), 201)["memory"]["id"]
    for text in ("Her dog is called Tovin.", None):
        ok(client.post(f"/memories/{memory_id}/compile"), 202)
        server.settled()
        if text:
            ok(client.post("/memories", json={"text": text, "memory": "log"}), 201)
    history = ok(client.get(f"/memories/{memory_id}/history"))
    assert [(each["version"], each["current"]) for each in history["versions"]] == [(1, False), (2, True)]
    diff = ok(client.get(f"/memories/{memory_id}/diff?older=1&newer=2"))
    assert "Tovin" in diff["added"][0]
    assert diff["removed"] == []
    assert len(diff["figures"]["fidelity"]) == 2
    assert client.get(f"/memories/{memory_id}/diff?older=1&newer=9").status_code == 404
    assert ok(client.post(f"/memories/{memory_id}/rollback", json={"version": 1}))["version"] == 1
    assert client.post(f"/memories/{memory_id}/rollback", json={"version": 7}).status_code == 404
    assert ok(client.post(f"/memories/{memory_id}/pin", json={}))["pinned"] is True
    facts = ok(client.get(f"/memories/{memory_id}/artifact"))
    assert (facts["kind"], facts["compiler"]) == ("kv", "lcc")
    assert "tenant" not in facts
    older = ok(client.get(f"/memories/{memory_id}/artifact?version=2"))
    assert older["id"] != facts["id"]


def test_what_has_no_artifact(client: httpx2.Client) -> None:
    memory_id = remember(client, TEXT)
    assert client.get(f"/memories/{memory_id}/artifact").status_code == 404
    assert client.post(f"/memories/{memory_id}/pin", json={}).status_code == 400


def test_forgetting(server: LiveServer, client: httpx2.Client) -> None:
    memory_id = compiled(server, client)
    part = {"spans": [{"start": 0, "end": 22}]}
    receipt = ok(client.post(f"/memories/{memory_id}/forget", json=part))["receipts"][0]
    assert receipt["artifacts_removed"] == 1
    left = receipt["left"]
    assert "Keldor" not in ok(client.get(f"/memories/{left}/source"))["text"]
    assert client.get(f"/memories/{memory_id}").status_code == 404
    server.settled()
    assert ok(client.get(f"/memories/{left}"))["version"] == 0  # what remains is too short to be worth it
    assert (
        client.post(f"/memories/{left}/forget", json={"spans": [{"start": 5, "end": 9999}]}).status_code
        == 400
    )
    assert client.post(f"/memories/{left}/forget", json={"matching": "Keldor"}).status_code == 404
    assert ok(client.delete(f"/memories/{left}"))["receipts"][0]["artifacts_removed"] == 0
    remember(client, TEXT)
    assert client.delete("/memories").status_code == 400
    assert len(ok(client.delete("/memories?all=true"))["receipts"]) == 1
    assert ok(client.get("/memories"))["memories"] == []


def test_forgetting_everything_forgets_the_items_of_stores(server: LiveServer) -> None:
    root = server.services.root
    owners = [
        Owner("mira", "stores"),
        Owner("mira", "stores", ("notes",)),
        Owner("mira", "stores", ("notes", "2026")),
        Owner("mira2", "stores", ("notes",)),
        Owner("mira#notes", "stores"),
        Owner("", "stores", ("notes",)),
        Owner("mira", "", ("notes",)),
    ]
    for owner in owners:
        root.for_user(owner).remember(f"This is kept for {owner}.", compile=False)
    with server.client("stores", "mira") as mira:
        assert len(ok(mira.delete("/memories?all=true"))["receipts"]) == 3
    left = [owner for owner in owners if root.for_user(owner).list_memories()]
    assert left == owners[3:]
    with server.client("stores") as tenant:
        assert len(ok(tenant.delete("/memories?all=true"))["receipts"]) == 1
    assert [owner for owner in owners if root.for_user(owner).list_memories()] == [*owners[3:5], owners[6]]


def test_recompilation_of_a_tenant(server: LiveServer) -> None:
    with server.client("many", "mira") as mira, server.client("many", "jalo") as jalo:
        remember(mira, TEXT)
        remember(jalo, "Jalo works at Brimtek.")
        due = ok(mira.get("/recompile/plan?always=true"))
        assert [task["user"] for task in due["tasks"]] == ["mira", "jalo"]
        assert ok(mira.get("/recompile/plan?always=true&user=jalo"))["tasks"][0]["user"] == "jalo"
        assert mira.get("/recompile/plan?user=nobody").status_code == 404
        with server.client("elsewhere") as stranger:
            assert ok(stranger.get("/recompile/plan?always=true"))["tasks"] == []
            job = ok(mira.post("/recompile", json={"always": True}), 202)
            server.settled()
            done = ok(mira.get(f"/recompile/{job['id']}"))
            assert [each["status"] for each in done["outcomes"]] == ["compiled", "compiled"]
            assert stranger.get(f"/recompile/{job['id']}").status_code == 404
            assert ok(stranger.get("/recompile")) == {"jobs": []}
        assert ok(mira.get("/recompile"))["jobs"][0]["id"] == job["id"]
        assert ok(jalo.get("/status"))["compiled"] == 1
