"""Scheduler files that call ``memkit recompile``: crontab, systemd timer, Kubernetes CronJob."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from memkit.errors import ConfigError

Format = Literal["crontab", "systemd", "kubernetes"]
_FIELD = re.compile(r"[\d*/,\-]+|(?:[A-Za-z]{3}(?:[-,][A-Za-z]{3})*)")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True)
class Job:
    """A scheduled ``memkit recompile`` with ``arguments``, at the times of a cron expression.

    ``home`` is the bank's folder. ``program`` is the command, ``image`` the container image for Kubernetes.
    Raises `ConfigError` for an invalid expression, or text that is not printable on one line.
    """

    cron: str
    home: str
    arguments: Sequence[str] = ()
    program: str = "memkit"
    image: str = "memkit:latest"

    def __post_init__(self) -> None:
        check_cron(self.cron)
        if any(not each.isprintable() for each in (self.home, self.program, self.image, *self.arguments)):
            raise ConfigError("paths and arguments of a job must be printable, on one line")

    @property
    def command(self) -> list[str]:
        """The words of the command line."""
        return [self.program, "recompile", *self.arguments]


def check_cron(cron: str) -> str:
    """The expression with weekdays by name, because schedulers count them differently.

    Raises `ConfigError` for anything but five fields.
    """
    fields = cron.split()
    if len(fields) != 5 or not all(_FIELD.fullmatch(field) for field in fields):
        raise ConfigError(
            f"a cron expression has five fields, minute hour day month weekday, as '0 3 * * *'; got {cron!r}"
        )
    return " ".join((*fields[:4], _weekdays(fields[4])))


def render(job: Job, format: str) -> str:
    """The text of the file. Raises `ConfigError` for an unknown format, or times that it cannot express."""
    renderers: dict[str, Callable[[Job], str]] = {
        "crontab": _crontab,
        "systemd": _systemd,
        "kubernetes": _kubernetes,
    }
    if format not in renderers:
        raise ConfigError(f"the format must be one of {', '.join(get_args(Format))}, got {format!r}")
    return renderers[format](job)


def _crontab(job: Job) -> str:
    # In a crontab an unescaped % ends the command.
    command = shlex.join(job.command).replace("%", r"\%")
    return f"MEMKIT_HOME={shlex.quote(job.home)}\n{job.cron} {command}\n"


def _systemd(job: Job) -> str:
    quoted = " ".join(_unit(word) for word in job.command)
    return (
        "# /etc/systemd/system/memkit-recompile.service\n"
        "[Unit]\nDescription=Recompile memories that changed\n\n"
        f"[Service]\nType=oneshot\nEnvironment={_unit(f'MEMKIT_HOME={job.home}')}\n"
        f"ExecStart=/usr/bin/env {quoted}\n"
        "Nice=10\n\n"
        "# /etc/systemd/system/memkit-recompile.timer\n"
        "[Unit]\nDescription=Recompile memories on time\n\n"
        f"[Timer]\nOnCalendar={calendar(job.cron)}\nPersistent=true\n\n"
        "[Install]\nWantedBy=timers.target\n"
    )


def _unit(word: str) -> str:
    escaped = word.replace("\\", r"\\").replace('"', r"\"").replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != word or not re.fullmatch(r"[\w./:=,@+\-]+", word) else word


def calendar(cron: str) -> str:
    """A cron expression as systemd's OnCalendar. Raises `ConfigError` for one that it cannot express."""
    minute, hour, day, month, weekday = check_cron(cron).split()
    if day != "*" and weekday != "*":
        raise ConfigError(
            f"{cron!r} combines a day of the month and a weekday, which systemd cannot express: give one"
        )
    days = "" if weekday == "*" else f"{weekday.replace('-', '..')} "
    parts = [part.replace("-", "..") for part in (month, day, hour, minute)]
    every = [re.sub(r"^\*/", "0/", part) for part in parts[2:]]  # hours and minutes count from 0
    dates = [re.sub(r"^\*/", "1/", part) for part in parts[:2]]
    return f"{days}*-{dates[0]}-{dates[1]} {every[0]}:{every[1]}:00"


def _weekdays(field: str) -> str:
    if "/" in field:
        raise ConfigError(f"name the weekdays that {field!r} means, as mon,wed,fri")
    return re.sub(r"\d", lambda match: _DAYS[int(match.group()) % 8], field)


def _kubernetes(job: Job) -> str:
    import json  # every JSON string is a YAML string

    words = "".join(f"            - {json.dumps(word)}\n" for word in job.command)
    return (
        "apiVersion: batch/v1\nkind: CronJob\nmetadata:\n  name: memkit-recompile\nspec:\n"
        f"  schedule: {json.dumps(job.cron)}\n"
        "  concurrencyPolicy: Forbid\n"
        "  jobTemplate:\n    spec:\n      backoffLimit: 1\n      template:\n        spec:\n"
        "          restartPolicy: Never\n"
        "          containers:\n          - name: recompile\n"
        f"            image: {json.dumps(job.image)}\n            command:\n{words}"
        f"            env:\n            - name: MEMKIT_HOME\n              value: {json.dumps(job.home)}\n"
        "            volumeMounts:\n            - name: bank\n"
        f"              mountPath: {json.dumps(job.home)}\n"
        "          volumes:\n          - name: bank\n            persistentVolumeClaim:\n"
        "              claimName: memkit-bank\n"
    )
