"""Every error that memkit raises on purpose.

MemkitError
├── ConfigError (ValueError)          a setting that is unknown or out of range
├── DocumentError (ValueError)        a document that cannot be remembered: empty, binary, not UTF-8
├── MissingExtraError (ImportError)   an optional dependency is absent; names the extra
├── ModelError                        a base model cannot be found, read or used
├── EngineError                       a request that the engine cannot serve
│   └── ContextTooLongError           prompt longer than the model's context window
├── ArtifactError (ValueError)        artifact bytes that are truncated, altered or too new
│   └── FingerprintError              a sound artifact, compiled for another base model
├── CompileError                      a compilation that cannot start or did not converge
├── VerificationError                 an artifact that failed its checks
└── BankError                         the memory bank cannot do what was asked
    ├── BankReadOnlyError             its folder or database cannot be written
    ├── BankFullError                 no space is left where it lies
    ├── BankBusyError                 another process holds it for longer than the time-out
    ├── QuotaError                    the tenant may not keep that much
    └── NotFoundError (LookupError)   no such user or memory for this tenant
"""

from __future__ import annotations

from memkit._version import DISTRIBUTION


class MemkitError(Exception):
    """Base of all errors that memkit raises on purpose."""


class ConfigError(MemkitError, ValueError):
    """A setting that is unknown or out of range."""


class DocumentError(MemkitError, ValueError):
    """A document that cannot be remembered."""


class MissingExtraError(MemkitError, ImportError):
    """An optional dependency is absent."""

    def __init__(self, package: str, install: str) -> None:
        super().__init__(f"{package} is not installed; run: {install}")
        self.package, self.install = package, install


def install_line(extra: str, *more: str) -> str:
    """What to run for an extra, and for ``more`` packages.

    pip keeps the memkit that is installed, from wherever it came, and adds what the extra names.
    """
    return " ".join([f"pip install '{DISTRIBUTION}[{extra}]'", *more])


class ModelError(MemkitError):
    """A base model cannot be found, read or used."""


class EngineError(MemkitError):
    """A request that the engine cannot serve."""


class ContextTooLongError(EngineError):
    """A prompt longer than the model's context window."""


class ArtifactError(MemkitError, ValueError):
    """Artifact bytes that are truncated, altered or too new."""


class FingerprintError(ArtifactError):
    """A sound artifact that was compiled for another base model."""


class CompileError(MemkitError):
    """A compilation that cannot start or did not converge."""


class VerificationError(MemkitError):
    """An artifact that failed its checks."""


class BankError(MemkitError):
    """The memory bank cannot do what was asked."""


class BankReadOnlyError(BankError):
    """The bank's folder or database cannot be written."""


class BankFullError(BankError):
    """No space is left where the bank lies."""


class BankBusyError(BankError):
    """Another process holds the bank for longer than the time-out."""


class QuotaError(BankError):
    """More than the tenant's policy allows."""


class NotFoundError(BankError, LookupError):
    """No such user or memory for this tenant."""
