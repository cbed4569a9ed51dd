"""The plugin's configuration: the ``linker_extra_config`` in a server's flags."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

LINKER, MODULE = "MemkitLinker", "memkit.engine.sglang.plugin.cache_linker"
CAPACITY = 4 << 30  # bytes


@dataclass(frozen=True)
class PluginConfig:
    """Where a server finds the bank's artifacts. Raises `ValueError` for invalid values."""

    artifacts: str  # a folder, or a URL that fsspec supports
    prefix: str  # the file that `memkit.engine.sglang.plugin.header.write` made for the model
    secret: str  # the file with the bank's secret, for the tenants' salts
    cache: str = ""  # folder for files that are fetched from a URL
    capacity: int = CAPACITY  # bytes of open artifacts

    def __post_init__(self) -> None:
        for name in ("artifacts", "prefix", "secret"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise ValueError(f"{name} must be a path, got {value!r}")
        if type(self.capacity) is not int or self.capacity < 1:
            raise ValueError(f"capacity must be a number of bytes, got {self.capacity!r}")
        if "://" in self.artifacts and not self.cache:
            raise ValueError("artifacts at a URL need a folder as cache")

    @classmethod
    def of(cls, values: Mapping[str, Any] | None) -> PluginConfig:
        """The configuration from a mapping. Raises `ValueError` for unknown, missing or invalid keys."""
        names = {field.name for field in fields(cls)}
        if unknown := sorted(set(values or {}) - names):
            raise ValueError(f"the linker's configuration has the unknown key {unknown[0]!r}")
        try:
            return cls(**(values or {}))
        except TypeError as error:
            raise ValueError(f"the linker's configuration is incomplete: {error}") from error

    @classmethod
    def of_server(cls, server_args: Any) -> PluginConfig | None:
        """The configuration from a server's arguments; None if it was started without memkit's linker."""
        given = getattr(server_args, "unified_cache_external_linker_config", None)
        if isinstance(given, str):
            given = json.loads(given)
        if not isinstance(given, Mapping) or given.get("linker_module_path") != MODULE:
            return None
        return cls.of(given.get("linker_extra_config"))

    def flag(self) -> str:
        """The value of ``--unified-cache-external-linker-config``."""
        extra = {key: value for key, value in asdict(self).items() if value != ""}
        return json.dumps({"linker": LINKER, "linker_module_path": MODULE, "linker_extra_config": extra})
