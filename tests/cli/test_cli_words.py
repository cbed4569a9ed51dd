"""What commands are called, whose memories they are about, and what they advise: one word for one thing."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from memkit import Memory
from memkit.bank import Bank
from memkit.bank.owners import Owner
from memkit.cli.command_table import COMMANDS
from memkit.cli.lazy_loading import Group
from memkit.cli.options import owner_option, users_option
from memkit.cli.recompile import then
from memkit.errors import ConfigError
from memkit.testing import TEXT, TINY_OPTIONS

pytestmark = pytest.mark.wheel
Cli = Callable[..., Any]
OPTIONS = [word for key, value in TINY_OPTIONS.items() for word in ("--option", f"{key}={value}")]
SHORT = b"Mira lives in Keldor."
LONG = (TEXT + " Sorel sells lamps in Vantor. Her cat is called Umlin and her boat is called Trevik. ") * 2


# --- advise ----------------------------------------------------------------------------------
def test_advise_and_its_old_name_say_the_same(cli: Cli, document: Path) -> None:
    memory_id = cli("remember", document, "--json").json["memory"]["id"]
    new, old = (cli(word, memory_id, "--json", *OPTIONS) for word in ("advise", "explain"))
    assert new.code == old.code == 0
    assert new.json == old.json
    assert (new.err, old.err.strip()) == ("", "`explain` is called `advise` now")
    shown = cli("--help").out
    assert "  advise " in shown
    assert "  explain " not in shown


def test_what_the_advice_leaves_is_left_by_remember_too(cli: Cli) -> None:
    done = cli("remember", "-", "--wait", "--json", *OPTIONS, stdin=SHORT)
    info = done.json["memory"]
    assert (done.code, info["status"], info["version"], done.json["artifact"]) == (0, "text", 0, None)
    assert done.json["left_on_its_text"].startswith("short: ")
    advice = cli("advise", info["id"], "--json", *OPTIONS).json["advice"]
    assert (advice["compile"], advice["reason"]) == (False, done.json["left_on_its_text"])
    (skipped,) = cli("recompile", "--dry-run", "--json", *OPTIONS).json["skipped"]
    assert skipped["reason"] == advice["reason"]
    said = cli("remember", "-", "--wait", *OPTIONS, stdin=SHORT)
    assert "answerable from its text now" in said.out
    assert f"left on its text ({advice['reason']}); to compile it all the same, add --always" in said.err


def test_always_compiles_it_all_the_same(cli: Cli) -> None:
    done = cli("remember", "-", "--wait", "--always", "--json", *OPTIONS, stdin=SHORT)
    assert (done.json["memory"]["version"], done.json["left_on_its_text"]) == (1, None)


def test_always_without_wait_is_refused(cli: Cli) -> None:
    done = cli("remember", "-", "--always", "--json", stdin=SHORT)
    assert (done.code, done.json["error"]["message"]) == (
        2,
        "--always belongs to --wait: add that to compile now",
    )
    assert cli("list", "--json").json["memories"] == []


@pytest.mark.parametrize(
    "name", ["\N{WOMAN}\u200d\N{PERSONAL COMPUTER}", "\u0645\u06cc\u200c\u062e", "10\u00a0km"]
)
def test_names_with_joined_characters(cli: Cli, name: str) -> None:
    words = ("--memory", name, "--speaker", name, "--key", name, "--json")
    assert cli("remember", "-", *words, stdin=SHORT).json["memory"]["name"] == name
    assert cli("remember", "-", "--title", name, "--json", stdin=SHORT).json["memory"]["title"] == name


def test_a_file_whose_name_is_no_utf8(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"\xff.txt")
    file.write_bytes(SHORT)
    done = cli("remember", file, "--json")
    assert (done.code, done.json["memory"]["title"]) == (0, "\ufffd.txt")


def test_what_the_advice_is_for_is_compiled(cli: Cli) -> None:
    done = cli("remember", "-", "--wait", "--json", *OPTIONS, stdin=LONG.encode())
    assert done.json["memory"]["version"] == 1
    assert cli("advise", done.json["memory"]["id"], "--json", *OPTIONS).json["advice"]["compile"] is True
    table = "\n".join(f"{n}, {n * n}, {n**3}" for n in range(60)).encode()
    assert (
        cli("remember", "-", "--wait", "--json", *OPTIONS, stdin=table)
        .json["left_on_its_text"]
        .startswith("tabular: ")
    )


def test_a_short_running_memory_is_left_too(cli: Cli) -> None:
    words = ("remember", "-", "--memory", "profile", "--wait", "--json", *OPTIONS)
    done = cli(*words, stdin=SHORT)
    assert (done.json["memory"]["version"], done.json["left_on_its_text"][:5]) == (0, "short")
    done = cli(*words, "--always", stdin=b"She has a dog.")
    assert (done.json["memory"]["version"], done.json["memory"]["behind"]) == (1, 0)


# --- search ----------------------------------------------------------------------------------
def test_search_finds_by_words(cli: Cli, document: Path) -> None:
    memory_id = cli("remember", document, "--json").json["memory"]["id"]
    cli("remember", "-", "--title", "boats", stdin=b"The boat of Sorel lies in Vantor.")
    done = cli("search", "Where does Mira live?", "--json")
    best = done.json["found"][0]
    assert (best["memory"]["id"], best["text"], best["span"]) == (
        memory_id,
        TEXT,
        {"start": 0, "end": len(TEXT)},
    )
    assert best["score"] > 0
    (only,) = cli("search", "Sorel's boat", "-k", "1", "--json").json["found"]
    assert only["memory"]["title"] == "boats"
    shown = cli("search", "Mira", "-k", "1").out
    assert all(part in shown for part in (memory_id, "people.txt", "Mira lives in Keldor.", "score"))
    nothing = cli("search", "quaternions", "--json")
    assert (nothing.code, nothing.json["found"]) == (0, [])
    assert "nothing was found" in cli("search", "quaternions").err
    assert cli("search", "x", "-k", "0").code == 2


# --- tenant and user -------------------------------------------------------------------------
def test_whom_user_and_tenant_mean() -> None:
    assert owner_option(None) == Owner("default")
    assert owner_option("mira") == Owner("mira")
    assert owner_option("mira", "acme") == Owner("mira", "acme")
    assert owner_option(None, "acme") == owner_option("", "acme") == Owner(tenant="acme")
    assert owner_option("acme/mira").name != owner_option("mira", "acme").name
    with pytest.raises(ConfigError, match="empty"):
        owner_option("")
    assert Owner("mira").words == "the user 'mira'"
    assert Owner("mira", "acme").words == "the user 'mira' of 'acme'"
    assert Owner(tenant="acme").words == "the tenant 'acme'"
    assert users_option("acme/mira") == ("acme", "mira")
    assert users_option("acme/") == ("acme", None)
    assert users_option("mira") == (None, "mira")
    assert users_option("acme/mira#a/b") == ("acme", "mira#a/b")


WHOSE = {
    "mira": ("--user", "mira"),
    "acme/mira": ("--tenant", "acme", "--user", "mira"),
    "acme/": ("--tenant", "acme"),
}


@pytest.fixture
def held(cli: Cli) -> dict[str, str]:
    """A compiled memory of each of three owners whose names look alike, by the owner's name in the bank."""
    found = {}
    for owner, words in WHOSE.items():
        text = f"{LONG} This is what {owner} told."
        done = cli("remember", "-", "--wait", "--json", *words, *OPTIONS, stdin=text.encode())
        memory = done.json["memory"]
        named = Owner(memory["user"], memory["tenant"], tuple(memory["namespace"]))
        assert (done.code, named) == (0, Owner.of(owner))
        found[owner] = done.json["memory"]["id"]
    return found


def test_every_command_is_about_whom_it_is_told(cli: Cli, held: dict[str, str], home: Path) -> None:
    for owner, words in WHOSE.items():
        listed = cli("list", "--json", *words).json
        assert [info["id"] for info in listed["memories"]] == [held[owner]]
        assert (listed["user"], listed["tenant"]) == (Owner.of(owner).user, Owner.of(owner).tenant)
        (found,) = cli("search", "Mira", "--json", *words).json["found"]
        assert found["memory"]["id"] == held[owner]
        for one in held.values():
            code = 0 if one == held[owner] else 3
            for command in (
                ("show", one),
                ("history", one),
                ("diff", one, "1", "1"),
                ("rollback", one, "1"),
                ("pin", one),
                ("pin", one, "--off"),
                ("verify", one),
                ("advise", one, *OPTIONS),
            ):
                assert cli(*command, *words).code == code, command
        assert cli("ask", "Where does Mira live?", "--json", *words).json["trace"]["memory_id"] == held[owner]
        checks = {check["name"]: check for check in cli("doctor", "--json", *words).json["checks"]}
        assert checks["bank"]["detail"].endswith(f"1 memories of {Owner.of(owner).words}, 1 of them compiled")
    assert cli("list").err.strip() == "the user 'default' has no memories"
    shown = cli("show", held["acme/mira"], *WHOSE["acme/mira"]).out
    assert [row.split() for row in shown.splitlines()[2:4]] == [["tenant", "acme"], ["user", "mira"]]


def test_limits_are_of_one_owner(cli: Cli, home: Path) -> None:
    for most, words in enumerate(WHOSE.values(), 3):
        assert cli("limit", "--max-memories", most, *words, "--json").code == 0
    for most, words in enumerate(WHOSE.values(), 3):
        assert cli("limit", *words, "--json").json["limits"]["max_memories"] == most
    with Bank(home) as bank:
        assert [bank.policies.get(owner).max_memories for owner in WHOSE] == [3, 4, 5]


def test_recompile_is_for_a_user_a_tenants_user_or_all_of_a_tenant(cli: Cli) -> None:
    for owner, words in WHOSE.items():
        cli("remember", "-", *words, stdin=f"{LONG} {owner}".encode())
    cli("remember", "-", "--user", "Acme", stdin=LONG.encode())

    def planned(*words: str) -> set[tuple[str, str]]:
        tasks = cli("recompile", "--dry-run", "--json", *words, *OPTIONS).json["tasks"]
        return {(task["tenant"], task["user"]) for task in tasks}

    assert planned() == {("", "mira"), ("acme", "mira"), ("acme", ""), ("", "Acme")}
    assert planned("--user", "mira") == {("", "mira")}
    assert planned("--tenant", "acme", "--user", "mira") == {("acme", "mira")}
    assert planned("--tenant", "acme") == {("acme", "mira"), ("acme", "")}
    assert cli("recompile", "--dry-run", "--tenant", "ACME").code == 3
    shown = cli("recompile", "--dry-run", "--tenant", "acme", *OPTIONS).out
    assert shown.split()[:3] == ["tenant", "user", "id"]
    assert sorted(row.split()[:2] for row in shown.splitlines()[1:3]) == [["acme", "mira"], ["acme", "–"]]


def test_wherever_a_user_is_named_a_tenant_can_be() -> None:
    missing = []
    for part in COMMANDS.values():
        for name, command in part.items():
            if isinstance(command, Group):
                continue
            known = signature(
                getattr(import_module(f"memkit.cli.{command.module}"), command.function)
            ).parameters
            if "user" in known and "tenant" not in known:
                missing.append(name)
    assert missing == []


def test_a_chat_is_a_tenants_or_its_users(cli: Cli, home: Path) -> None:
    for owner, words in WHOSE.items():
        assert cli("chat", *words, stdin=f"{owner} told this.\n".encode()).err.strip() == "remembered"
    for owner, words in WHOSE.items():
        (line,) = cli("chat", *words, stdin=b"/list\n").out.splitlines()
        assert line.endswith(f" user: {owner} told this.")


# --- forget ----------------------------------------------------------------------------------
def test_forgetting_all_of_a_user_says_what_goes(cli: Cli, home: Path, tiny_model_folder: Path) -> None:
    for text in (b"One text.", b"Another text."):
        cli("remember", "-", "--user", "mira", stdin=text)
    cli("remember", "-", "--user", "mira2", stdin=b"Of somebody else.")
    with Memory(home, str(tiny_model_folder), "mira") as memory:
        memory.for_user(Owner("mira", namespace=("notes",))).remember("Kept by an agent.", compile=False)
    asked = cli("forget", "--user", "mira", stdin=b"n\n")
    said = (
        "Forget all 2 memories of the user 'mira', and the 1 that agents keep in its stores, with vectors and"
    )
    assert (asked.code, said in asked.err) == (1, True)
    done = cli("forget", "--user", "mira", stdin=b"y\n")
    assert "forgot 3 memories of the user 'mira'" in done.out
    with Bank(home) as bank:
        assert bank.tenants() == ["mira2"]
    assert cli("forget", "--user", "mira", "--yes").code == 3


def test_forgetting_a_tenant_leaves_its_users(cli: Cli, held: dict[str, str], home: Path) -> None:
    assert cli("forget", "--tenant", "acme", "--yes").code == 0
    with Bank(home) as bank:
        assert sorted(bank.tenants()) == ["acme/mira", "mira"]
    assert cli("forget", "--tenant", "acme", "--user", "mira", "--yes").code == 0
    with Bank(home) as bank:
        assert bank.tenants() == ["mira"]


def test_forgetting_by_the_start_of_an_id_is_asked_about(cli: Cli) -> None:
    memory_id = cli("remember", "-", "--json", stdin=SHORT).json["memory"]["id"]
    refused = cli("forget", memory_id[:6], "--yes")
    assert (refused.code, f"with --yes give all of it, {memory_id}" in refused.err) == (2, True)
    done = cli("forget", memory_id[:6], stdin=b"y\n")
    assert (done.code, memory_id in done.err) == (0, True)


def test_forgetting_a_text_cleans_the_title_too(cli: Cli, home: Path) -> None:
    text = b"Mira lives in Keldor. Her dog is called Tovin."
    memory_id = cli("remember", "-", "--title", "About Tovin", "--json", stdin=text).json["memory"]["id"]
    asked = cli("forget", memory_id, "--matching", "Tovin", stdin=b"n\n")
    assert "Forget 'Tovin', wherever it stands (text, title, name, keys), in " in asked.err
    done = cli("forget", memory_id, "--matching", "Tovin", "--yes", "--json")
    assert done.code == 0
    assert b"Tovin" not in b"".join(file.read_bytes() for file in home.rglob("*") if file.is_file())
    (left,) = cli("list", "--json").json["memories"]
    assert "Tovin" not in left["title"]
    assert cli("search", "Keldor", "--json").json["found"][0]["text"].startswith("Mira lives in Keldor.")
    assert cli("forget", left["id"], "--matching", "Tovin", "--yes").code == 3
    both = cli("forget", left["id"], "--matching", "Mira", "--span", "0:1", "--yes")
    assert (both.code, "not both" in both.err) == (2, True)


def test_forgetting_a_text_of_the_title_alone(cli: Cli) -> None:
    memory_id = cli("remember", "-", "--title", "About Tovin", "--json", stdin=SHORT).json["memory"]["id"]
    assert cli("forget", memory_id, "--matching", "Tovin", "--yes").code == 0
    (left,) = cli("list", "--json").json["memories"]
    assert ("Tovin" in left["title"], left["characters"]) == (False, len(SHORT))


def test_forgetting_a_text_and_checking_is_one_call(cli: Cli, home: Path) -> None:
    text = b"Mira lives in Keldor. Her dog is called Tovin."
    memory_id = cli("remember", "-", "--title", "About Tovin", "--json", stdin=text).json["memory"]["id"]
    done = cli("forget", memory_id, "--matching", "Tovin", "--check", "--yes", "--json")
    (receipt,) = done.json["forgotten"]
    assert (done.code, receipt["memory_id"]) == (0, memory_id)
    assert all(not check["answered"] for check in done.json["checks"])
    assert b"Tovin" not in b"".join(file.read_bytes() for file in home.rglob("*") if file.is_file())
    (left,) = cli("list", "--json").json["memories"]
    assert (left["id"], left["title"]) == (receipt["left"], "About")
    assert cli("forget", left["id"], "--matching", "Tovin", "--check", "--yes").code == 3
    assert cli("forget", "--user", "default", "--matching", "Mira", "--yes").code == 2
    assert cli("forget", left["id"], "--matching", "", "--yes").code == 2


# --- when ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("2026-05-02", "2026-05-02T00:00:00+00:00"),
        ("2026-05-02 08:00", "2026-05-02T08:00:00+00:00"),
        ("2026-05-02T08:00:00.25", "2026-05-02T08:00:00.250000+00:00"),
        ("2026-05-02T08:00:00Z", "2026-05-02T08:00:00+00:00"),
        ("2026-05-02 08:00+09:00", "2026-05-02T08:00:00+09:00"),
    ],
)
def test_when_it_was_said(cli: Cli, home: Path, when: str, said: str) -> None:
    assert cli("remember", "-", "--memory", "profile", "--when", when, stdin=SHORT).code == 0
    with Bank(home) as bank:
        (info,) = bank.list("default")
        (entry,) = bank.logs.entries("default", info.id)
    assert entry.said == datetime.fromisoformat(said)
    assert entry.line.startswith("2026-05-02 user: ")  # in Tokyo, too: the speaker's own day


def test_a_when_that_is_none_is_refused(cli: Cli) -> None:
    done = cli("remember", "-", "--memory", "profile", "--when", "soon", stdin=SHORT)
    assert (done.code, "a time is given as 2026-05-02, 2026-05-02 08:00 or" in done.err) == (2, True)


def test_since_takes_the_same_and_times_ago() -> None:
    now = datetime(2026, 5, 10, tzinfo=UTC)
    assert then("2d", now) == now - timedelta(days=2)
    assert then("1h30m", now) == now - timedelta(minutes=90)
    assert then("2026-05-02 08:00", now) == datetime(2026, 5, 2, 8, tzinfo=UTC)
    tokyo = timezone(timedelta(hours=9))
    assert then("2026-05-02T08:00:00.5+09:00", now) == datetime(2026, 5, 2, 8, 0, 0, 500_000, tokyo)
    for bad in ("yesterday", "2x", "", "20", "99999999d", "9999999999999999d"):
        with pytest.raises(ConfigError):
            then(bad, now)
