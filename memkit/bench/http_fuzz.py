"""Fuzz the HTTP API with valid and nearly valid requests: ``memkit bench fuzz``."""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import SkipTest

from memkit.bench.http_server import LiveServer, served
from memkit.errors import ConfigError, MissingExtraError
from memkit.evals.timing import stamp
from memkit.server.config import ServerConfig
from memkit.testing import TEXT, TINY_OPTIONS, build_tiny_model

PASS = 32  # requests of one kind to one operation before the next operation
MAX_TOKENS = 4  # of an answer, so that requests are fast
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class FuzzConfig:
    """Send at least ``cases`` requests, equally many of each kind and operation if there are enough."""

    cases: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.cases < 1:
            raise ConfigError(f"cases must be at least 1, got {self.cases}")


class _Fuzz:
    """The requests to one server, with the statuses and failures of its responses."""

    def __init__(self, server: LiveServer) -> None:
        self._server, self._client = server, server.client("acme", "mira")
        self._key = server.key("acme")
        self.statuses, self.failures = Counter[int](), list[str]()

    def memory(self) -> str:
        """The id of an existing memory."""
        body = {"text": TEXT, "compile": False}
        answer = self._client.post("/memories", json=body)
        return str(answer.json()["memory"]["id"])

    def send(self, case: Any, session: Any, checks: Any) -> None:
        headers = {"Authorization": f"Bearer {self._key}"}
        if case.path_parameters and case.path_parameters.get("memory_id") == "here":
            case.path_parameters["memory_id"] = self.memory()
            headers["X-Memkit-User"] = "mira"
        answer = case.call(base_url=self._server.url, session=session, headers=headers, timeout=60)
        self.statuses[answer.status_code] += 1
        try:
            case.validate_response(answer, checks=checks)
        except (Exception, BaseExceptionGroup) as error:
            message = " ".join(str(error).split())
            self.failures.append(f"{case.operation.label}: {message:.500}")


def bench(config: FuzzConfig, progress: Progress = lambda label, done, total: None) -> dict[str, Any]:
    """Fuzz a server with a tiny model on loopback; returns one row, and the failures.

    Raises `MissingExtraError` without schemathesis.
    """
    try:
        import schemathesis
    except ImportError as error:
        raise MissingExtraError("schemathesis", "pip install schemathesis") from error
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        build_tiny_model(home / "tiny")
        settings = ServerConfig(
            home / "bank",
            str(home / "tiny"),
            compiler="lcc",
            options=TINY_OPTIONS,
            rate=10**9,
            queue=10**6,
            max_tokens=MAX_TOKENS,
            compile=False,
        )
        with served(settings) as server:
            fuzz = _Fuzz(server)
            schema = schemathesis.openapi.from_dict(_described(server))
            described: list[Any] = list(schema.get_all_operations())
            operations = [each.ok() for each in described]
            _run(config, fuzz, operations, progress)
    failed = sum(count for status, count in fuzz.statuses.items() if status >= 500)
    row = {
        "operations": len(operations),
        "cases": fuzz.statuses.total(),
        "server_errors": failed,
        "not_as_described": len(fuzz.failures) - failed,
        "statuses": {str(status): count for status, count in sorted(fuzz.statuses.items())},
    }
    return {
        "bench": "fuzz",
        "seed": config.seed,
        **stamp(),
        "rows": [row],
        "failures": fuzz.failures[:20],
    }


def _run(config: FuzzConfig, fuzz: _Fuzz, operations: list[Any], progress: Progress) -> None:
    import requests
    from hypothesis import HealthCheck, Phase, given, seed
    from hypothesis import settings as how
    from hypothesis.errors import Unsatisfiable
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

    checks = [not_a_server_error, response_schema_conformance, status_code_conformance]
    plans = [
        (operation, mode, here)
        for operation in operations
        for mode in GenerationMode
        for here in ([False, True] if "{memory_id}" in operation.path else [False])
    ]
    passes, each = itertools.count(), min(PASS, -(-config.cases // len(plans)))
    with requests.Session() as session:
        while fuzz.statuses.total() < config.cases:
            number = next(passes)
            for operation, mode, here in plans:
                progress(operation.label, min(fuzz.statuses.total(), config.cases), config.cases)

                @seed(config.seed + number)
                @how(
                    max_examples=each,
                    deadline=None,
                    database=None,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )
                @given(operation.as_strategy(mode, path_parameters={"memory_id": "here"} if here else None))
                def one(case: Any) -> None:
                    fuzz.send(case, session, checks)

                with suppress(Unsatisfiable, SkipTest):  # some operations have no invalid requests
                    one()
    progress("done", config.cases, config.cases)


def _described(server: LiveServer) -> dict[str, Any]:
    """The API's description, narrowed so that most requests reach a memory or the model."""
    described: dict[str, Any] = copy.deepcopy(server.app.openapi())
    schemas = described["components"]["schemas"]
    for name in ("ChatBody", "CompletionBody"):
        schemas[name]["properties"]["model"] = {"const": "tiny"}
    text, messages = {"type": "string", "minLength": 1}, schemas["RememberBody"]["properties"]["messages"]
    kinds = ({"text": text, "title": {"type": "string"}}, {"messages": messages["anyOf"][0], "memory": text})
    schemas["RememberBody"] = {
        "oneOf": [
            {
                "type": "object",
                "properties": kind,
                "required": [next(iter(kind))],
                "additionalProperties": False,
            }
            for kind in kinds
        ]
    }
    # Otherwise most invalid requests would lack a key, which other tests cover.
    described["components"].pop("securitySchemes")
    for methods in described["paths"].values():
        for how in methods.values():
            how.pop("security", None)
    return described
