"""``memkit history``, ``diff``, ``rollback``, ``pin``, ``export`` and ``import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memkit.cli.memories import Id
from memkit.cli.options import (
    EmbedderName,
    Home,
    Json,
    Model,
    Tenant,
    User,
    memory_document,
    open_bank,
    open_memory,
    owner_option,
)
from memkit.cli.output import Output
from memkit.errors import ConfigError

Number = Annotated[int, typer.Argument(metavar="VERSION", help="A version that `memkit history` shows.")]


def history(
    memory_id: Id, user: User = None, tenant: Tenant = None, home: Home = None, json: Json = False
) -> None:
    """Show the stored versions of a memory's artifact, oldest first."""
    output, owner = Output(json), owner_option(user, tenant).name
    with open_bank(home) as bank:
        info = bank.get(owner, memory_id)
        versions = bank.versions.history(owner, info.id)

    def show() -> None:
        names = ("", "version", "created (UTC)", "compiler", "bytes", "seconds", "entries up to", "model")
        rows = [
            (
                ("pinned" if info.pinned else "current") if v.current else "",
                *(v.version, v.created, v.compiler, v.nbytes, v.seconds, v.through),
                v.fingerprint and v.fingerprint[:16],
            )
            for v in versions
        ]
        output.table(names, rows)

    output.result({"memory": memory_document(info), "versions": versions}, show)


def diff(
    memory_id: Id,
    older: Number,
    newer: Number,
    user: User = None,
    tenant: Tenant = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Compare two versions: the sources each was compiled from, and its admission figures."""
    from memkit.bank.diff import difference

    output, owner = Output(json), owner_option(user, tenant).name
    with open_bank(home) as bank:
        compared = difference(bank, owner, bank.get(owner, memory_id).id, older, newer)

    def show() -> None:
        for sign, entries in (("-", compared.removed), ("+", compared.added)):
            for entry in entries:
                output.say(f"{sign} {entry.line}")
        rows = [(name, *values) for name, values in compared.fidelity.items()]
        output.table(("figure", f"version {older}", f"version {newer}"), rows)

    output.result(compared, show)


def rollback(
    memory_id: Id,
    version: Number,
    user: User = None,
    tenant: Tenant = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Answer from an earlier (or later) version. The source does not change."""
    output, owner = Output(json), owner_option(user, tenant).name
    with open_bank(home) as bank:
        info = bank.versions.rollback(owner, bank.get(owner, memory_id).id, version)
    output.result(
        {"memory": memory_document(info)}, lambda: output.say(f"{info.id}: now using version {info.version}")
    )


def pin(
    memory_id: Id,
    off: Annotated[bool, typer.Option("--off", help="Unpin.")] = False,
    user: User = None,
    tenant: Tenant = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Keep answering from the current version until it is unpinned, whatever is compiled meanwhile."""
    output, owner = Output(json), owner_option(user, tenant).name
    with open_bank(home) as bank:
        info = bank.versions.pin(owner, bank.get(owner, memory_id).id, not off)
    word = "unpinned" if off else f"pinned to version {info.version}"
    output.result({"memory": memory_document(info)}, lambda: output.say(f"{info.id}: {word}"))


def export_bundle(
    memory_id: Id,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file.")],
    key: Annotated[
        Path,
        typer.Option(
            "--key", metavar="KEY", envvar="MEMKIT_SIGNING_KEY", help="Private key that signs the bundle."
        ),
    ],
    user: User = None,
    tenant: Tenant = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Export a memory, with its source and artifact, to a signed file."""
    from memkit.artifact.signing import Signer
    from memkit.bank.bundle import export

    output, signer = Output(json), Signer.from_file(key)
    with open_bank(home) as bank:
        data = export(bank, owner_option(user, tenant).name, memory_id, signer)
    try:
        with file.open("xb") as out:
            out.write(data)
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}") from error
    output.result(
        {"file": file, "bytes": len(data)}, lambda: output.say(f"wrote {file}, {len(data):,} bytes")
    )


def import_bundle(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `memkit export` wrote.")],
    trust: Annotated[
        list[Path],
        typer.Option(metavar="KEY.pub", envvar="MEMKIT_TRUSTED_KEYS", help="A public key; repeatable."),
    ],
    user: User = None,
    tenant: Tenant = None,
    embedder: EmbedderName = None,
    home: Home = None,
    model: Model = "nano",
    json: Json = False,
) -> None:
    """Import a memory from a bundle that a trusted key has signed for this model and user."""
    from memkit.artifact.signing import trusted_keys
    from memkit.bank.bundle import load
    from memkit.router.indexing import index, refresh

    output, keys = Output(json), trusted_keys(trust)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    with open_memory(home, model, owner_option(user, tenant), embedder=embedder) as memory:
        own_embedder, fingerprint = memory.router.embedder, memory.engine.fingerprint
        refresh(memory.bank, memory.owner, own_embedder)
        info = load(
            memory.bank,
            memory.owner,
            data,
            keys,
            lambda document: index(document, own_embedder),
            embedder=own_embedder.name,
            fingerprint=fingerprint,
        )
    output.result(
        {"memory": memory_document(info)}, lambda: output.say(f"{info.id}: imported, version {info.version}")
    )
