"""``memkit list``, ``show``, ``verify`` and ``keygen``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memkit.artifact.signing import generate, trusted_keys
from memkit.artifact.signing import require_signed as require_signature
from memkit.cli.options import (
    Home,
    Json,
    Model,
    Tenant,
    User,
    memory_document,
    open_bank,
    open_memory,
    owner_option,
    users_option,
)
from memkit.cli.output import Output, exit_code
from memkit.cli.progress import compilation
from memkit.compilers.base import Progress, silent
from memkit.errors import ArtifactError, ConfigError, NotFoundError, VerificationError

if TYPE_CHECKING:
    from memkit.bank import Bank, MemoryInfo
    from memkit.memory import Memory

Id = Annotated[str, typer.Argument(metavar="ID", help="A memory's id, or its beginning.")]
OptionalId = Annotated[
    str | None, typer.Argument(metavar="[ID]", help="A memory's id, or its beginning.", show_default=False)
]


def list_memories(
    user: User = None, tenant: Tenant = None, home: Home = None, model: Model = "nano", json: Json = False
) -> None:
    """List a user's memories, oldest first."""
    output, owner = Output(json), owner_option(user, tenant)
    with open_bank(home) as bank:
        memories = bank.list(owner.name)

    def show() -> None:
        if not memories:
            output.note(f"{owner.words} has no memories")
            return
        output.table(
            ("id", "status", "version", "compiler", "characters", "artifact bytes", "created (UTC)", "title"),
            [
                (m.id, m.status, m.version, m.compiler, m.characters, m.artifact_bytes, m.created, m.title)
                for m in memories
            ],
        )

    output.result(
        {"user": owner.user, "tenant": owner.tenant, "memories": [*map(memory_document, memories)]}, show
    )


def show(
    memory_id: Id,
    user: User = None,
    tenant: Tenant = None,
    home: Home = None,
    model: Model = "nano",
    json: Json = False,
) -> None:
    """Show a memory and the manifest of its artifact."""
    output, owner = Output(json), owner_option(user, tenant).name
    with open_bank(home) as bank:
        info = bank.get(owner, memory_id)
        about = _artifact(bank, owner, info)

    def rows() -> None:
        tenant, user = users_option(info.tenant)
        known = {"id": info.id, "tenant": tenant, "user": user}
        known |= {name: value for name, value in vars(info).items() if name not in known}
        output.table(("memory", ""), known.items())
        if about is not None:
            output.say("")
            flat = [(key, _flat(value)) for key, value in about.items()]
            output.table(("artifact", ""), flat)

    output.result({"memory": memory_document(info), "artifact": about}, rows)


def _artifact(bank: Bank, owner: str, info: MemoryInfo) -> dict[str, Any] | None:
    """The manifest, without the tensors' digests, or the problem with the file."""
    if info.artifact_id is None:
        return None
    try:
        artifact = bank.artifact(owner, info.id)
    except ArtifactError as error:
        return {"error": str(error)}
    manifest = {**vars(artifact.manifest)}
    manifest["tensors"] = [
        {"name": t.name, "dtype": t.dtype, "axes": dict(zip(t.axes, t.shape, strict=True))}
        for t in artifact.manifest.tensors
    ]
    artifact.close()
    return manifest


def _flat(value: Any) -> Any:
    if isinstance(value, dict):
        shown = {key: item for key, item in value.items() if key != "curve"}  # the dashboard draws it
        return ", ".join(f"{key} {_flat(item)}" for key, item in shown.items()) or None
    if isinstance(value, list | tuple):
        return "; ".join(str(_flat(vars(v) if hasattr(v, "__dict__") else v)) for v in value) or None
    return value


def verify(
    memory_id: OptionalId = None,
    every: Annotated[bool, typer.Option("--all", help="All of the user's memories.")] = False,
    replay: Annotated[
        bool, typer.Option("--replay", help="Compile again from the source, and compare byte for byte.")
    ] = False,
    require_signed: Annotated[
        bool, typer.Option("--require-signed", help="Refuse artifacts that no trusted key has signed.")
    ] = False,
    trust: Annotated[
        list[Path] | None,
        typer.Option(metavar="KEY.pub", envvar="MEMKIT_TRUSTED_KEYS", help="A public key; repeatable."),
    ] = None,
    user: User = None,
    tenant: Tenant = None,
    home: Home = None,
    model: Model = "nano",
    json: Json = False,
) -> None:
    """Verify artifacts: check every byte and the model, and repeat the self-test."""
    output, owner = Output(json), owner_option(user, tenant)
    if (memory_id is None) != every:
        raise ConfigError("give the ID of a memory, or --all")
    if require_signed and not trust:
        raise ConfigError("--require-signed needs trusted keys: --trust KEY.pub")
    check = partial(_check_signature, trusted_keys(trust or ())) if require_signed else None
    with open_memory(home, model, owner) as memory:
        chosen = memory.list_memories() if memory_id is None else [memory.get(memory_id)]
        if not chosen:
            raise NotFoundError(f"{owner.words} has no memories")
        if not every and chosen[0].artifact_id is None:
            raise NotFoundError(f"memory {chosen[0].id} has no artifact yet: compile it first")
        with compilation(output) if replay else nullcontext(silent) as progress:
            results = [_verified(memory, info, replay, progress, check) for info in chosen]
    failed = [row for row in results if row["result"] == "fail"]
    output.result(
        {"user": owner.user, "tenant": owner.tenant, "ok": not failed, "results": results},
        lambda: output.table(
            ("id", "result", "detail"), [(row["id"], row["result"], row["detail"]) for row in results]
        ),
    )
    if failed:
        output.note(f"error: {len(failed)} of {len(results)} failed")
        raise typer.Exit(exit_code(VerificationError()))


def _check_signature(trusted: Sequence[Any], memory: Memory, info: MemoryInfo) -> None:
    with memory.bank.artifact(memory.owner, info.id) as artifact:
        require_signature(artifact.manifest, trusted)


def _verified(
    memory: Memory,
    info: MemoryInfo,
    replay: bool,
    progress: Progress,
    check: Callable[[Memory, MemoryInfo], None] | None,
) -> dict[str, Any]:
    row: dict[str, Any] = {"id": info.id, "result": "none", "version": info.version, "measured": None}
    if info.artifact_id is None:
        return {**row, "detail": "has no artifact: answered from its text"}
    try:
        if check:
            check(memory, info)
        report = memory.verify(info.id, replay=replay, progress=progress)
    except (ArtifactError, NotFoundError, VerificationError) as error:
        return {**row, "result": "fail", "detail": str(error)}
    m = report.measured
    detail = f"answers {m.fidelity:.0%} of {m.questions} self-test questions as the text does"
    detail += "" if report.calibrated else "; no thresholds are calibrated for this model and compiler"
    detail += "" if report.reproduced else "; the figures in the artifact were others"
    detail += "; compiled again to the byte" if report.replayed else ""
    return {**row, "result": "ok", "measured": m.plain(), "detail": detail}


def keygen(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The private key; the public key becomes FILE.pub.")
    ],
    json: Json = False,
) -> None:
    """Create a key pair (Ed25519) to sign artifacts: MEMKIT_SIGNING_KEY=FILE memkit remember ..."""
    output = Output(json)
    private, public = generate(file)
    output.result(
        {"private": str(private), "public": str(public)},
        lambda: output.say(f"wrote {private} (keep it secret) and {public}"),
    )
