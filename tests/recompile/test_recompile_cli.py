"""``memkit recompile``, ``schedule``, ``cron`` and ``advise``."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from memkit.cli.recompile import duration, then
from memkit.errors import ConfigError, MissingExtraError, VerificationError
from memkit.recompile.cron import Job, calendar, render
from memkit.recompile.schedule import repeat
from memkit.testing import TEXT, TINY_OPTIONS

Cli = Callable[..., Any]
OPTIONS = [word for key, value in TINY_OPTIONS.items() for word in ("--option", f"{key}={value}")]
START = datetime(2026, 3, 1, 12, tzinfo=UTC)  # a Sunday


def test_recompile_plans_compiles_and_does_nothing_twice(cli: Cli, document: Path, tmp_path: Path) -> None:
    assert cli("recompile", "--json").json["outcomes"] == []  # an empty bank
    assert cli("remember", document).code == 0
    planned = cli("recompile", "--dry-run", "--always", "--json", *OPTIONS).json
    (task,) = planned["tasks"]
    assert (task["user"], task["reason"]) == ("default", "not compiled yet")
    assert cli("list", "--json").json["memories"][0]["version"] == 0
    assert "not compiled yet" in cli("recompile", "--dry-run", "--always", *OPTIONS).out
    done = cli("recompile", "--always", *OPTIONS)
    assert (done.code, "1 compiled" in done.out) == (0, True)
    assert "people.txt" in done.err  # progress
    file = tmp_path / "memkit.prom"
    again = cli("recompile", "--always", "--json", "--metrics", file, *OPTIONS).json
    assert 'memkit_recompile_memories{outcome="unchanged"} 1.0' in file.read_text()
    assert (again["outcomes"], again["unchanged"]) == ([], 1)


def test_recompile_says_what_failed(cli: Cli, document: Path, tmp_path: Path) -> None:
    long = tmp_path / "long.txt"
    long.write_text(TEXT * 500)
    cli("remember", long), cli("remember", document)
    done = cli("recompile", "--always", "--json", *OPTIONS)
    assert done.code == 4
    assert sorted(o["status"] for o in done.json["outcomes"]) == ["compiled", "failed"]
    assert (
        cli("recompile", "--always", "--json", *OPTIONS)
        .json["skipped"][0]["reason"]
        .startswith("it failed before")
    )


@pytest.mark.parametrize(
    "words",
    [
        ("--budget", "soon"),
        ("--since", "yesterday"),
        ("--executor", "magic"),
        ("--workers", "0"),
        ("--keep", "0"),
        ("--idle-days", "-1"),
        ("--compiler", "magic"),
    ],
)
def test_recompile_refuses_bad_settings(cli: Cli, words: tuple[str, str]) -> None:
    done = cli("recompile", *words)
    assert done.code == 2
    assert done.err.startswith("error: ") or "error: " in done.err


def test_recompile_for_nobody(cli: Cli) -> None:
    assert cli("recompile", "--user", "nobody").code == 3


def test_advise(cli: Cli, document: Path) -> None:
    memory_id = cli("remember", document, "--json").json["memory"]["id"]
    found = cli("advise", memory_id, "--json", *OPTIONS).json
    assert found["advice"]["break_even"] > 0
    assert found["due"] == "not compiled yet"
    out = cli("advise", memory_id, *OPTIONS).out
    assert "pays for itself after questions" in out
    assert cli("advise", "0" * 16).code == 3


def test_times() -> None:
    assert duration("1h30m") == timedelta(minutes=90)
    assert duration("1.5s") == timedelta(seconds=1.5)
    assert then("2d", START) == START - timedelta(days=2)
    assert then("2026-02-03", START) == datetime(2026, 2, 3, tzinfo=UTC)
    for bad in ("", "h", "2", "2x", "1h x", "-3h"):
        with pytest.raises(ConfigError, match="a time is"):
            duration(bad)


# --- cron ------------------------------------------------------------------------------------
JOB = Job("30 3 * * 1-5", "/srv/mem kit/100%", ("--budget", "2h", "--user", 'a"b$'))


def test_crontab_calls_exactly_recompile(cli: Cli) -> None:
    home, line = render(JOB, "crontab").splitlines()
    assert home == "MEMKIT_HOME='/srv/mem kit/100%'"
    assert line.startswith("30 3 * * 1-5 memkit recompile ")
    command = line.split(" ", 5)[5].replace(r"\%", "%")
    assert shlex.split(command) == ["memkit", "recompile", "--budget", "2h", "--user", 'a"b$']
    done = cli("cron", "--format", "crontab", "--", "--budget", "2h")
    assert done.out.splitlines()[-1] == "0 3 * * * memkit recompile --budget 2h"
    assert cli("cron", "--format", "magic").code == 2
    assert cli("cron", "--cron", "daily").code == 2


def test_kubernetes_is_a_cron_job() -> None:
    job = yaml.safe_load(render(JOB, "kubernetes"))
    assert (job["kind"], job["spec"]["schedule"]) == ("CronJob", "30 3 * * 1-5")
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == JOB.command
    assert container["env"] == [{"name": "MEMKIT_HOME", "value": JOB.home}]


def test_systemd_has_a_service_and_a_timer(tmp_path: Path) -> None:
    text = render(JOB, "systemd")
    assert "OnCalendar=mon..fri *-*-* 3:30:00" in text
    assert 'ExecStart=/usr/bin/env memkit recompile --budget 2h --user "a\\"b$$"' in text
    assert 'Environment="MEMKIT_HOME=/srv/mem kit/100%%"' in text
    if analyze := shutil.which("systemd-analyze"):
        for cron in ("30 3 * * 1-5", "*/15 2-4 1 */3 *", "0 3 * * 0,6"):
            subprocess.run([analyze, "calendar", calendar(cron)], check=True, capture_output=True)


def test_calendars() -> None:
    assert calendar("*/15 * * * *") == "*-*-* *:0/15:00"
    assert calendar("0 3 1-7 */3 *") == "*-1/3-1..7 3:0:00"
    assert calendar("0 3 * * 0,6") == "sun,sat *-*-* 3:0:00"
    for bad in ("0 3 1 * 1", "0 3 * * */2"):
        with pytest.raises(ConfigError):
            calendar(bad)


@pytest.mark.parametrize("bad", ["", "0 3 * *", "0 3 * * * *", "a b c d e", "0 3 * * *; rm -rf /", "@daily"])
def test_wrong_expressions_are_refused(bad: str) -> None:
    with pytest.raises(ConfigError, match="five fields"):
        Job(bad, "/srv")
    with pytest.raises(ConfigError, match="five fields"):
        repeat(lambda: None, bad, "UTC", print)


def test_a_job_keeps_to_its_lines() -> None:
    with pytest.raises(ConfigError, match="one line"):
        Job("0 3 * * *", "/srv\n* * * * * evil")


# --- schedule --------------------------------------------------------------------------------
class Time:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def test_runs_come_at_their_times_and_never_overlap() -> None:
    time, ran, said = Time(), list[datetime](), list[str]()

    def run() -> None:
        ran.append(time.now)
        if len(ran) == 1:
            time.sleep(26 * 3600)  # over the next time, which is left out
        if len(ran) == 2:
            raise VerificationError("not tonight")
        if len(ran) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repeat(run, "0 3 * * *", "UTC", said.append, clock=time, sleep=time.sleep)
    assert [each.isoformat() for each in ran] == [
        "2026-03-02T03:00:00+00:00",
        "2026-03-04T03:00:00+00:00",
        "2026-03-05T03:00:00+00:00",
    ]
    assert "error: not tonight" in said


def test_weekdays_count_from_sunday() -> None:
    time, ran = Time(), list[str]()

    def run() -> None:
        ran.append(f"{time.now:%A}")
        if len(ran) == 2:
            raise KeyboardInterrupt
        time.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        repeat(run, "0 3 * * 0,1", "Europe/Oslo", lambda _: None, clock=time, sleep=time.sleep)
    assert ran == ["Monday", "Sunday"]


def test_zones_and_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="Middle/Earth"):
        repeat(lambda: None, "0 3 * * *", "Middle/Earth", print)
    with pytest.raises(ConfigError, match="not a valid schedule"):
        repeat(lambda: None, "99 3 * * *", "UTC", print)
    monkeypatch.setitem(__import__("sys").modules, "apscheduler.triggers.cron", None)
    with pytest.raises(MissingExtraError, match="schedule"):
        repeat(lambda: None, "0 3 * * *", "UTC", print)


def test_log_records_as_json_by_command(cli: Cli, document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMKIT_LOG", "json")
    monkeypatch.setattr(logging.getLogger("memkit"), "handlers", [])
    cli("remember", document)
    done = cli("ask", "Where does Mira live?")
    (line,) = (json.loads(each) for each in done.err.splitlines() if each.startswith("{"))
    assert (line["event"], line["route"]) == ("answered", "text")
