"""Forgetting a part, all, or what is too old; asking afterwards; quotas and keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from memkit.bank import Bank, Message, Policy
from memkit.document import Document, Span
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ConfigError, NotFoundError, QuotaError
from memkit.memory import Memory
from memkit.pipeline.admission import AdmissionConfig
from memkit.pipeline.answer import Sampling, ask_many
from memkit.pipeline.context import Context
from memkit.pipeline.forget_check import ForgetReport, LeakCheck
from memkit.recompile.run import expire
from memkit.testing import TEXT, TINY_LCC

SECRET = "The password of the safe is Krumbeltorn."
NOW = datetime.now(UTC)
Cli = Callable[..., Any]


@pytest.fixture
def memory(tmp_path: Path, engine: TransformersEngine) -> Iterator[Memory]:
    few = AdmissionConfig(questions=4, pieces=1)
    with Memory(tmp_path / "bank", user="mira", engine=engine, **TINY_LCC, admission=few) as made:
        yield made


def anywhere(folder: Path, text: str) -> list[Path]:
    """Files below a folder that hold a text."""
    return [p for p in folder.rglob("*") if p.is_file() and text.encode() in p.read_bytes()]


def span_of(text: str, part: str) -> Span:
    start = text.index(part)
    return Span(start, start + len(part))


def test_a_part_of_a_document_goes_with_every_artifact_that_saw_it(memory: Memory, tmp_path: Path) -> None:
    text = f"{TEXT} {SECRET}"
    info = memory.remember(text, title="notes", wait=True)
    assert memory.ask("Where does Mira live?").route == "latent"
    old = info.artifact_id
    (receipt,) = memory.forget(info.id, spans=[span_of(text, SECRET)])
    assert (receipt.memory_id, receipt.artifacts_removed) == (info.id, 1)
    assert receipt.left not in (None, info.id)
    memory.wait()  # for the compilation of what remains
    (left,) = memory.list_memories()
    assert (left.id, left.title, left.status, left.version) == (receipt.left, "notes", "compiled", 1)
    assert memory.bank.source("mira", left.id).text == TEXT
    assert left.artifact_id != old
    assert not anywhere(tmp_path, "Krumbeltorn")
    assert not anywhere(tmp_path, Document(text).digest)
    assert not anywhere(tmp_path, str(old))
    memory.bank.backup(tmp_path / "later.backup")
    assert not anywhere(tmp_path, "Krumbeltorn")


def test_entries_go_whole_and_versions_that_never_saw_them_stay(memory: Memory, tmp_path: Path) -> None:
    memory.remember("Mira lives in Lima.", memory="profile")
    first = memory.remember("Mira has a dog.", memory="profile", wait=True, always=True)
    second = memory.remember(SECRET, memory="profile", wait=True, always=True)
    text = memory.bank.source("mira", second.id).text
    (receipt,) = memory.forget(second.id, spans=[span_of(text, "Krumbel")], compile=False)
    assert (receipt.left, receipt.artifacts_removed) == (second.id, 1)
    info = memory.get(second.id)
    assert (info.version, info.entries, info.behind, info.artifact_id) == (1, 2, 0, first.artifact_id)
    assert not anywhere(tmp_path, "Krumbeltorn")
    assert memory.ask("Where does Mira live?").route == "latent"
    memory.remember("Mira has a cat.", memory="profile")
    assert memory.get(info.id).behind == 1  # its number is not that of what was erased


def test_what_is_left_without_words_is_forgotten_altogether(memory: Memory) -> None:
    info = memory.remember(TEXT, compile=False)
    (receipt,) = memory.forget(info.id, spans=[Span(0, len(TEXT))])
    assert (receipt.left, memory.list_memories()) == (None, [])
    log = memory.remember(SECRET, memory="profile")
    (receipt,) = memory.forget(log.id, spans=[Span(0, 3)])
    assert (receipt.left, memory.list_memories()) == (None, [])


def test_erasing_down_to_another_memory_merges_them(memory: Memory) -> None:
    kept = memory.remember(TEXT, compile=False)
    text = f"{TEXT} {SECRET}"
    info = memory.remember(text, compile=False)
    (receipt,) = memory.forget(info.id, spans=[span_of(text, SECRET)])
    assert receipt.left == kept.id
    assert [each.id for each in memory.list_memories()] == [kept.id]


@pytest.mark.parametrize("bad", [Span(-1, 3), Span(3, 3), Span(5, 2), Span(0, 10_000)])
def test_spans_outside_change_nothing(memory: Memory, bad: Span) -> None:
    info = memory.remember(TEXT, compile=False)
    with pytest.raises(ConfigError, match="outside"):
        memory.forget(info.id, spans=[bad])
    assert memory.bank.source("mira", info.id).text == TEXT
    for nothing in (None, ""):
        with pytest.raises(ConfigError, match="forget_all"):
            memory.forget(nothing)  # type: ignore[arg-type] # what a trace without a memory gives
    found: list[Any] = [[], (), "", 0, {}, [(0, 1)], [None]]
    for none in found:
        with pytest.raises(ConfigError, match="spans"):
            memory.forget(info.id, spans=none)  # of a search that found nothing
    with pytest.raises(ConfigError, match="start of an id"):
        memory.forget(info.id[:4])
    assert memory.bank.source("mira", info.id).text == TEXT
    with pytest.raises(NotFoundError):
        memory.for_user("jalo").forget(info.id, spans=[Span(0, 1)])


def test_the_deleted_questions_are_asked_again(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A tiny model writes nonsense, so that questions, answers and asking are given here."""
    told = [("What is the password?", "Krumbeltorn"), ("Who is it?", "nobody")]
    monkeypatch.setattr("memkit.pipeline.forget_check._questions_about", lambda memory, text, count: told)
    said = {"What is the password?": "It is Krumbeltorn.", "Who is it?": "I do not know."}

    def answers(context: Context, questions: Sequence[str], *_: Any) -> list[Any]:
        from dataclasses import replace

        (found,) = ask_many(context, questions, (), Sampling(max_tokens=2))
        return [replace(found, text=said[questions[0]])]

    info = memory.remember(SECRET, compile=False)
    monkeypatch.setattr("memkit.pipeline.forget_check.ask_many", answers)
    done = memory.forget_and_check(info.id)
    assert [c.answered for c in done.checks] == [True, False]
    assert [c.question for c in done.still_answered] == ["What is the password?"]
    assert {c.route for c in done.checks} == {"none"}


def test_what_the_model_knows_anyway_is_not_checked(memory: Memory) -> None:
    from memkit.pipeline.forget_check import _questions_about

    pairs = _questions_about(memory.context, TEXT, 4)
    bare = {q: memory.for_user("nobody").ask(q, max_tokens=32).text for q, _ in pairs}
    assert all(answer.strip() and answer not in bare[question] for question, answer in pairs)


# --- retention -------------------------------------------------------------------------------
def test_what_is_too_old_is_forgotten(memory: Memory) -> None:
    old, new = NOW - timedelta(days=40), NOW - timedelta(days=3)
    log = memory.remember([Message("Mira lives in Lima.", when=old), Message("Mira has a dog.", when=new)])
    memory.remember(TEXT, compile=False)
    other = memory.for_user("jalo").remember([Message("Jalo lives in Oslo.", when=old)])
    memory.bank.policies.set("mira", Policy(keep_days=30))
    done = expire(memory, None, NOW)
    assert [r.memory_id for r in done["mira"]] == [log.id]
    assert [e.text for e in memory.bank.logs.entries("mira", log.id)] == ["Mira has a dog."]
    assert memory.bank.get("jalo", other.id).entries == 1  # nobody limited Jalo
    later = expire(memory, ["mira"], NOW + timedelta(days=31))
    assert len(later["mira"]) == 2
    assert memory.list_memories() == []


# --- quotas ----------------------------------------------------------------------------------
@pytest.mark.parametrize("policy", [Policy(max_memories=1), Policy(max_characters=len(TEXT) + 10)])
def test_a_quota_refuses_what_is_over_it_and_keeps_the_rest(memory: Memory, policy: Policy) -> None:
    memory.bank.policies.set("mira", policy)
    memory.remember(TEXT, compile=False)
    memory.remember(TEXT, compile=False)  # nothing new
    with pytest.raises(QuotaError, match="may have"):
        memory.remember("Jalo works at Brimtek.", compile=False)
    with pytest.raises(QuotaError):
        memory.remember("Jalo works at Brimtek.", memory="profile")
    assert len(memory.list_memories()) == 1
    memory.for_user("jalo").remember("Jalo works at Brimtek.", compile=False)
    memory.bank.policies.set("mira", Policy())
    memory.remember("Jalo works at Brimtek.", compile=False)


def test_an_artifact_over_the_quota_leaves_no_file(memory: Memory, tmp_path: Path) -> None:
    memory.bank.policies.set("mira", Policy(max_bytes=10))
    with pytest.raises(QuotaError, match="artifact bytes"):
        memory.remember(TEXT, wait=True)
    (info,) = memory.list_memories()
    assert (info.version, list(tmp_path.rglob("*.mka"))) == (0, [])


@pytest.mark.parametrize("bad", [{"keep_days": 0}, {"max_memories": -1}, {"max_bytes": 1.5}])
def test_bad_policies_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        Policy(**bad)


# --- keys ------------------------------------------------------------------------------------
def test_keys_open_their_tenant_until_they_are_revoked(tmp_path: Path) -> None:
    with Bank(tmp_path) as bank:
        key, secret = bank.keys.create("mira", "laptop")
        _, other = bank.keys.create("jalo")
        assert (bank.keys.tenant(secret), bank.keys.tenant(other)) == ("mira", "jalo")
        swapped = f"mk_{key.id}_{other.split('_', 2)[2]}"
        for wrong in (swapped, secret[:-1], "", "mk_", "nonsense", "mk_é_x", secret + "\ud800"):
            assert bank.keys.tenant(wrong) is None
        assert [k.label for k in bank.keys.list("mira")] == ["laptop"]
        with pytest.raises(NotFoundError):
            bank.keys.revoke("jalo", key.id)
        assert bank.keys.tenant(secret) == "mira"
        bank.keys.revoke("mira", key.id)
        assert bank.keys.tenant(secret) is None
        assert bank.keys.list("mira")[0].revoked is not None
    assert not anywhere(tmp_path, secret)


# --- commands --------------------------------------------------------------------------------
def test_forget_a_part_by_command(cli: Cli, home: Path, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text(f"{TEXT} {SECRET}")
    info = cli("remember", file, "--json").json["memory"]
    assert cli("forget", info["id"], "--matching", "nowhere", "--yes").code == 3
    for bad in ("1", "a:b", "5:2", "0:99999"):
        assert cli("forget", info["id"], "--span", bad, "--yes").code == 2
    assert cli("forget", "--user", "default", "--span", "0:1", "--yes").code == 2
    done = cli("forget", info["id"], "--matching", SECRET, "--yes", "--json")
    assert done.code == 0
    (receipt,) = done.json["forgotten"]
    assert cli("show", receipt["left"], "--json").json["memory"]["characters"] == len(TEXT)
    assert not anywhere(home, "Krumbeltorn")


def test_forget_with_a_check_by_command(cli: Cli, document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = cli("remember", document, "--json").json["memory"]
    done = cli("forget", info["id"], "--check", "--yes", "--json")
    assert (done.code, done.json["forgotten"][0]["memory_id"]) == (0, info["id"])
    assert all(not check["answered"] for check in done.json["checks"])
    info = cli("remember", document, "--json").json["memory"]
    left = ForgetReport((), (LeakCheck("Who?", True, "text", "abc"),))
    monkeypatch.setattr("memkit.pipeline.forget_check.forget_and_check", lambda *_, **__: left)
    done = cli("forget", info["id"], "--check", "--yes")
    assert (done.code, "Who?" in done.out) == (4, True)


def test_limits_by_command(cli: Cli, document: Path) -> None:
    found = cli("limit", "--max-memories", "1", "--keep-days", "30", "--json").json["limits"]
    assert (found["max_memories"], found["keep_days"], found["max_bytes"]) == (1, 30, None)
    assert cli("limit", "--max-memories", "0", "--json").json["limits"]["max_memories"] is None
    assert cli("limit", "--json").json["limits"]["keep_days"] == 30
    assert cli("limit", "--keep-days", "-3").code == 2
    cli("limit", "--max-characters", "5")
    assert cli("remember", document).code == 5
    assert "raise the limit" in cli("remember", document).err


def test_keys_by_command(cli: Cli, home: Path) -> None:
    made = cli("keys", "create", "--tenant", "mira", "--label", "laptop", "--json").json
    with Bank(home) as bank:
        assert bank.keys.tenant(made["secret"]) == "mira"
        assert bank.keys.tenant(cli("keys", "create", "--tenant", "jalo").out.strip()) == "jalo"
    assert "laptop" in cli("keys", "list", "--tenant", "mira").out
    assert cli("keys", "revoke", made["key"]["id"], "--tenant", "jalo").code == 3
    assert cli("keys", "revoke", made["key"]["id"], "--tenant", "mira").code == 0
    with Bank(home) as bank:
        assert bank.keys.tenant(made["secret"]) is None


def test_a_memory_that_expires_by_recompile(cli: Cli, document: Path, tmp_path: Path) -> None:
    cli("remember", document, "--memory", "log", "--when", "2020-01-01")
    cli("limit", "--keep-days", "30")
    done = cli("recompile", "--json").json
    assert [r["left"] for r in done["expired"][0]["receipts"]] == [None]
    assert cli("list", "--json").json["memories"] == []


def test_a_user_whose_last_memory_expires_does_not_stop_the_others(cli: Cli, document: Path) -> None:
    whose = ("--tenant", "T", "--user")
    cli("remember", document, *whose, "b", "--memory", "log", "--when", "2020-01-01")
    cli("limit", *whose, "b", "--keep-days", "30")
    cli("remember", document, *whose, "d")
    done = cli("recompile", "--tenant", "T", "--compiler", "compact", "--always", "--json").json
    assert [(each["tenant"], each["user"]) for each in done["expired"]] == [("T", "b")]
    assert [(each["user"], each["status"]) for each in done["outcomes"]] == [("d", "compiled")]
    unknown = cli("recompile", *whose, "b")
    assert unknown.code == 3
    assert "the user 'b' of 'T' has no memories" in unknown.err
