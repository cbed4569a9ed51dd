"""``memkit doctor``: checks of the installation, the model, the bank and the servers."""

from __future__ import annotations

import importlib
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from memkit._version import __version__
from memkit.cli.options import (
    Home,
    Json,
    Model,
    Tenant,
    Urls,
    User,
    load_config,
    open_bank,
    owner_option,
)
from memkit.cli.output import Output
from memkit.cli.sglang import server_checks
from memkit.config import Config
from memkit.errors import ArtifactError, MemkitError

if TYPE_CHECKING:
    from memkit.bank.owners import Owner

_PACKAGES = {  # import name: distribution
    "torch": "torch",
    "transformers": "transformers",
    "tokenizers": "tokenizers",
    "safetensors": "safetensors",
    "peft": "peft",
    "faiss": "faiss-cpu",
    "sqlalchemy": "sqlalchemy",
    "alembic": "alembic",
    "msgpack": "msgpack",
    "numpy": "numpy",
}
_SCARCE, _TOO_LITTLE = 2**30, 50 * 2**20  # bytes of free disk


@dataclass(frozen=True)
class Check:
    """One row: the name of a check, its status, and what was found or what to do."""

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str


def doctor(
    repair: Annotated[
        bool,
        typer.Option("--repair", help="First remove orphaned files and rebuild derived data."),
    ] = False,
    user: User = None,
    tenant: Tenant = None,
    url: Urls = None,
    home: Home = None,
    model: Model = "nano",
    json: Json = False,
) -> None:
    """Check versions, model, bank, disk and SGLang servers; exits with 1 if any check fails."""
    output, owner = Output(json), owner_option(user, tenant)
    config = load_config(home, model, engine="sglang" if url else None, urls=url)
    packages = list(_packages())
    if any(check.status == "fail" for check in packages):
        checks, done = packages, list[str]()
    else:
        loaded, fingerprint = _model(config)
        done, repaired = _repair(config) if repair else ([], [])
        checks = [
            *packages,
            *_compilers(),
            *loaded,
            *repaired,
            *_bank(config, owner, fingerprint),
            _disk(config.home),
            *_servers(config, fingerprint),
        ]
    failed = [check for check in checks if check.status == "fail"]

    def show() -> None:
        output.table(("check", "status", "detail"), [tuple(vars(check).values()) for check in checks])
        for line in done:
            output.say(line)

    output.result({"ok": not failed, "checks": checks, "repaired": done}, show)
    if failed:
        raise typer.Exit(1)


def _packages() -> Iterator[Check]:
    enough = sys.version_info >= (3, 11)
    yield Check("memkit", "ok", __version__)
    yield Check(
        "python", "ok" if enough else "fail", platform.python_version() + ("" if enough else "; need 3.11")
    )
    for name, distribution in _PACKAGES.items():
        try:
            importlib.import_module(name)
            yield Check(name, "ok", version(distribution))
        except PackageNotFoundError:
            yield Check(name, "warn", "imports, but was not installed as a package")
        except (ImportError, OSError) as error:
            yield Check(name, "fail", f"{error}; run: pip install {distribution}")


def _compilers() -> Iterator[Check]:
    from memkit import registry

    names = registry.compilers()
    if not names:
        yield Check("compilers", "fail", "none is registered; install memkit with pip instead of copying it")
    for name in names:
        try:
            compiler = registry.compiler(name)
        except (MemkitError, ImportError) as error:
            yield Check(f"compiler {name}", "fail", str(error))
        else:
            yield Check(f"compiler {name}", "ok", f"version {compiler.version}")


def _model(config: Config) -> tuple[list[Check], str | None]:
    from memkit.compiler_choice import choose
    from memkit.engine.factory import create_local_engine

    name = config.model
    try:
        loaded = create_local_engine(config).base
    except MemkitError as error:
        return [Check(f"model {name}", "fail", str(error))], None
    detail = f"{loaded.window} tokens, on {loaded.model.device}, fingerprint {loaded.fingerprint[:16]}"
    choice = choose(config.compiler, loaded, config.engine == "transformers")
    used = Check("compiler in use", "ok", str(choice))
    return [Check(f"model {name}", "ok", detail), used], loaded.fingerprint


def _servers(config: Config, fingerprint: str | None) -> Iterator[Check]:
    if config.sglang_urls:
        for name, status, detail in server_checks(config, fingerprint):
            yield Check(name, status, detail)


def _repair(config: Config) -> tuple[list[str], list[Check]]:
    if not _exists(config):
        return [], []
    try:
        with open_bank(config.home) as bank:
            return bank.repair(), []
    except MemkitError as error:
        return [], [Check("repair", "fail", str(error))]


def _exists(config: Config) -> bool:
    return config.home.exists() or config.database is not None


def _bank(config: Config, owner: Owner, fingerprint: str | None) -> Iterator[Check]:
    folder = config.home
    if not _exists(config):
        yield Check("bank", "warn", f"there is none at {folder} yet; the first remember makes it")
        return
    try:
        with open_bank(folder) as bank:
            memories, problems = bank.list(owner.name), bank.check(owner.name)
            foreign = 0
            for info in memories:
                if info.artifact_id is None or fingerprint is None:
                    continue
                try:
                    artifact = bank.artifact(owner.name, info.id)
                except ArtifactError:
                    continue  # among the problems
                foreign += artifact.manifest.fingerprint != fingerprint
                artifact.close()
    except MemkitError as error:
        yield Check("bank", "fail", str(error))
        return
    compiled = sum(info.artifact_id is not None for info in memories)
    summary = f"{len(memories)} memories of {owner.words}, {compiled} of them compiled"
    yield Check("bank", "ok", f"{folder}: {summary}")
    yield from (Check("artifact", "fail", problem) for problem in problems)
    if foreign:
        yield Check(
            "artifacts", "warn", f"{foreign} were compiled for another model; they are answered from text"
        )


def _disk(folder: Path) -> Check:
    place = next((p for p in (folder, *folder.absolute().parents) if p.exists()), Path("/"))
    free = shutil.disk_usage(place).free
    status: Literal["ok", "warn", "fail"] = (
        "fail" if free < _TOO_LITTLE else "warn" if free < _SCARCE else "ok"
    )
    return Check("disk", status, f"{free / 2**30:.1f} GiB free at {place}")
