"""The bench of the bank, small."""

from __future__ import annotations

import pytest

from memkit.bank import Bank
from memkit.bench import bank
from memkit.bench.bank import BankConfig, bench

SMALL = BankConfig(memories=30, processes=2, operations=15, puts=3, nbytes=1000)


@pytest.mark.slow
def test_rows_and_what_several_processes_keep() -> None:
    rows = {row["row"]: row for row in bench(SMALL)["rows"]}
    assert set(rows) == {"put", "get", "shared", "remember", "open"}
    assert (rows["shared"]["operations"], rows["shared"]["lost"], rows["shared"]["locked_errors"]) == (
        30,
        0,
        0,
    )
    assert rows["put"]["rate_to_raw"] > 0
    assert rows["remember"]["memories"] == 30


def test_a_lost_update_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, since what is patched does not reach another one."""
    monkeypatch.setattr(bank, "ProcessPoolExecutor", _Here)
    monkeypatch.setattr(Bank, "forget", lambda *_: [])
    rows = {row["row"]: row for row in bench(SMALL)["rows"]}
    assert rows["shared"]["lost"] > 0


class _Here:
    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, function: object, *arguments: object) -> _Here:
        self._made = function(*arguments)  # type: ignore[operator] # what is submitted can be called
        made = _Here()
        made._made = self._made
        return made

    def result(self) -> object:
        return self._made


@pytest.mark.parametrize("name", ["memories", "processes", "operations", "puts", "nbytes"])
def test_numbers_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        BankConfig(**{name: 0})
