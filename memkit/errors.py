"""The errors that memkit raises.

MemkitError
├── ConfigError (ValueError)          an unknown or invalid setting or argument
├── DocumentError (ValueError)        a document that is empty, binary or not UTF-8
├── MissingExtraError (ImportError)   a missing optional dependency; names the extra
├── ModelError                        a base model that cannot be found, read or used
├── EngineError                       a request that the engine cannot serve
│   └── ContextTooLongError           a prompt longer than the model's context window
├── ArtifactError (ValueError)        an artifact that is truncated, altered or too new
│   └── FingerprintError              an artifact for another base model
├── CompileError                      a compilation that cannot start or did not converge
├── VerificationError                 an artifact that failed the admission gate, or a signature check
└── BankError                         a failure of the memory bank
    ├── BankReadOnlyError             its folder or database cannot be written
    ├── BankFullError                 its disk is full
    ├── BankBusyError                 another process locks it for longer than the timeout
    ├── QuotaError                    the tenant's limits are exceeded
    └── NotFoundError (LookupError)   the tenant has no such memory
"""

from __future__ import annotations

from memkit._version import DISTRIBUTION


class MemkitError(Exception):
    """The base class of all errors that memkit raises."""


class ConfigError(MemkitError, ValueError):
    """An unknown or invalid setting or argument."""


class DocumentError(MemkitError, ValueError):
    """A document that is empty, binary or not UTF-8."""


class MissingExtraError(MemkitError, ImportError):
    """A missing ``package`` of an extra; ``install`` is the command that installs it."""

    def __init__(self, package: str, install: str) -> None:
        super().__init__(f"{package} is not installed; run: {install}")
        self.package, self.install = package, install


def install_line(extra: str, *more: str) -> str:
    """The command that installs an extra, and ``more`` packages.

    pip keeps the installed memkit, whatever its origin, and adds the dependencies of the extra.
    """
    return " ".join([f"pip install '{DISTRIBUTION}[{extra}]'", *more])


class ModelError(MemkitError):
    """A base model that cannot be found, read or used."""


class EngineError(MemkitError):
    """A request that the engine cannot serve."""


class ContextTooLongError(EngineError):
    """A prompt longer than the model's context window."""


class ArtifactError(MemkitError, ValueError):
    """An artifact that is truncated, altered or too new."""


class FingerprintError(ArtifactError):
    """An artifact for another base model."""


class CompileError(MemkitError):
    """A compilation that cannot start or did not converge."""


class VerificationError(MemkitError):
    """An artifact that failed the admission gate, or a signature check."""


class BankError(MemkitError):
    """A failure of the memory bank."""


class BankReadOnlyError(BankError):
    """The bank's folder or database cannot be written."""


class BankFullError(BankError):
    """The bank's disk is full."""


class BankBusyError(BankError):
    """Another process locks the bank for longer than the timeout."""


class QuotaError(BankError):
    """The tenant's limits are exceeded."""


class NotFoundError(BankError, LookupError):
    """The tenant has no such memory."""
