"""The plugin that SGLang loads in each of its processes, by the entry-point group ``sglang.srt.plugins``.

In the process that receives requests it checks each one (`memkit.engine.sglang.plugin.request_checks`),
inserts memory embeddings, resolves LoRA artifacts and serves the routes ``/memkit``. In the scheduler it
installs `memkit.engine.sglang.plugin.scheduler_guard`.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

from memkit._version import __version__
from memkit.engine.sglang.plugin import scheduler_guard
from memkit.engine.sglang.plugin.artifact_files import Artifacts, files_of
from memkit.engine.sglang.plugin.config import PluginConfig
from memkit.engine.sglang.plugin.header import Header, read_secret
from memkit.engine.sglang.plugin.lora_adapters import Adapters
from memkit.engine.sglang.plugin.protocol import ADAPTER, Claim
from memkit.engine.sglang.plugin.request_checks import (
    OVERRIDES,
    RequestChecks,
    check_harmless,
    override_field,
)
from memkit.errors import ArtifactError, BankError, EngineError, MemkitError

log = logging.getLogger(__name__)
MANAGER = "sglang.srt.managers.tokenizer_manager.TokenizerManager"
SERVER = "sglang.srt.entrypoints.http_server"
INFO, LOOKUP = "/memkit", "/memkit/artifact"


def install() -> None:
    """Register memkit's hooks; SGLang calls this once in each process."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    scheduler_guard.install()
    hooks: dict[str, tuple[Callable[..., Any], Any]] = {
        "__init__": (after_start, HookType.AFTER),
        "generate_request": (before_request, HookType.BEFORE),
        "load_lora_adapter": (around_load, HookType.AROUND),
        "load_lora_adapter_from_tensors": (around_load_tensors, HookType.AROUND),
        "_unload_lora_adapter_locked": (around_unload, HookType.AROUND),
    }
    for name, (hook, kind) in hooks.items():
        HookRegistry.register(f"{MANAGER}.{name}", hook, kind)


class RequestRefusedError(ValueError):
    """A request that is refused; SGLang responds with its ``status_code``."""

    def __init__(self, error: MemkitError) -> None:
        super().__init__(f"memkit: {error}")
        kinds = ((BankError, 503), (ArtifactError, 404))
        self.status_code = next((code for kind, code in kinds if isinstance(error, kind)), 400)


class Plugin:
    """A server's connection to its bank; ``problem`` says why it serves no artifacts, "" if it does."""

    def __init__(self, manager: Any, config: PluginConfig) -> None:
        arguments = manager.server_args
        self.prefix = Header.open(config.prefix)
        self.artifacts = Artifacts(files_of(config), config.capacity)
        self.page = int(getattr(arguments, "page_size", None) or 1)
        secret = read_secret(config.secret)
        self.checks = RequestChecks(self.prefix, self.artifacts, secret, self.page)
        self.adapters = Adapters(self.artifacts, self.prefix.fingerprint)
        self.fingerprint: str | None = None
        self.vocabulary: str | None = None
        self.problem = "the server is still checking its model; try again in a moment"
        self.starting = True
        self._manager = manager
        threading.Thread(target=self._identify, name="memkit-fingerprint", daemon=True).start()

    def _identify(self) -> None:
        """Check that the server runs the base model that the bank was prepared for."""
        from memkit.engine.sglang.plugin.fingerprint import fingerprint_at

        model = self._manager.model_config
        try:
            self.fingerprint, self.vocabulary = fingerprint_at(model.model_path, model.dtype)
            same = self.fingerprint == self.prefix.fingerprint
            self.problem = (
                ""
                if same
                else (
                    f"the bank was prepared for model {self.prefix.fingerprint[:12]}, this server runs "
                    f"{self.fingerprint[:12]} ({model.model_path}, {model.dtype}); run memkit sglang-args"
                )
            )
        except Exception as error:  # transformers raises many kinds; the server continues without artifacts
            self.problem = f"the server's model could not be identified: {error}"
        self.starting = False
        if self.problem:
            log.error("memkit serves no artifacts: %s", self.problem)

    def require(self) -> None:
        """Raise `BankError` while the model is being checked, `EngineError` if it is the wrong one."""
        if self.problem:
            raise BankError(self.problem) if self.starting else EngineError(self.problem)

    def _window(self) -> int:
        """The longest prompt plus answer in tokens: the model's window, or less with a smaller KV cache."""
        longest = int(self._manager.model_config.context_len)
        room = getattr(self._manager, "max_req_input_len", None)
        return longest if room is None else min(longest, int(room))

    def info(self) -> dict[str, Any]:
        """The server's description for clients."""
        from sglang.version import __version__ as sglang

        arguments, model = self._manager.server_args, self._manager.model_config
        return {
            "memkit": __version__,
            "sglang": sglang,
            "fingerprint": self.fingerprint,
            "prepared_for": self.prefix.fingerprint,
            "vocabulary": self.vocabulary,
            "problem": self.problem,
            "starting": self.starting,
            "model": str(model.model_path),
            "dtype": str(model.dtype).removeprefix("torch."),
            "page_size": self.page,
            "window": self._window(),
            "vocabulary_size": int(model.vocab_size),
            "header": list(self.prefix.ids),
            "end": self.prefix.end,
            "hidden_states": bool(getattr(arguments, "enable_return_hidden_states", False)),
            "lora": bool(getattr(arguments, "enable_lora", False)),
            "max_loaded_loras": getattr(arguments, "max_loaded_loras", None),
        }


def after_start(_result: None, manager: Any, *_arguments: Any, **_options: Any) -> None:
    """After SGLang's tokenizer manager is created: open the bank's files and add memkit's routes."""
    config = PluginConfig.of_server(manager.server_args)
    if config is None:
        return
    manager.memkit = Plugin(manager, config)
    server = sys.modules.get(SERVER)  # absent where SGLang is used as a library
    if server is not None:
        _add_routes(server.app, manager.memkit)


def _add_routes(app: Any, serving: Plugin) -> None:
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response

    async def info(_request: Request) -> Response:
        return JSONResponse(serving.info())

    async def lookup(request: Request) -> Response:
        """Check that an artifact, given as ``{"extra_key", "cache_salt"}``, can be used here."""
        try:
            body = await request.json()
            claim = Claim.parse(str(body["extra_key"]))
            if claim is None:
                raise EngineError("extra_key names no artifact")
            serving.require()
            serving.checks.authorize(claim, body["cache_salt"])
            artifact = serving.artifacts.get(claim, serving.prefix.fingerprint, verify=False)
        except MemkitError as error:
            refused = RequestRefusedError(error)
            return JSONResponse({"error": {"message": str(refused)}}, refused.status_code)
        except (KeyError, TypeError, ValueError):
            return JSONResponse({"error": {"message": "memkit: give extra_key and cache_salt"}}, 400)
        return JSONResponse({"tokens": artifact.manifest.tokens, "kind": artifact.manifest.kind})

    app.router.add_route(INFO, info, methods=["GET"])
    app.router.add_route(LOOKUP, lookup, methods=["POST"])


def before_request(manager: Any, obj: Any, *_arguments: Any, **_options: Any) -> None:
    """Before SGLang processes a request: check it, and insert its memory embeddings.

    Raises `RequestRefusedError`, which SGLang turns into a response with its status code.
    """
    from sglang.srt.managers.embed_types import PositionalEmbeds

    serving: Plugin | None = getattr(manager, "memkit", None)
    try:
        check_harmless(obj, PositionalEmbeds, int(manager.model_config.vocab_size))
        if serving is None:
            _without_bank(obj)
            return
        overrides = serving.checks.check(obj)
        if not overrides:
            return
        serving.require()
        if any(each is not None for each in overrides):
            single = not isinstance(obj.input_ids[0], list)
            setattr(obj, OVERRIDES, override_field(overrides, PositionalEmbeds, single))
    except MemkitError as error:
        raise RequestRefusedError(error) from error


def _without_bank(obj: Any) -> None:
    """Refuse artifacts on a server that was started without memkit's flags."""
    keys = getattr(obj, "extra_key", None)
    if any(isinstance(key, str) and Claim.parse(key) for key in (keys if isinstance(keys, list) else [keys])):
        raise EngineError("this server was started without memkit's flags; see memkit sglang-args")


async def around_load(original: Callable[..., Any], manager: Any, obj: Any, *rest: Any) -> Any:
    """Around the loading of a LoRA: an artifact's is read from the bank."""
    serving: Plugin | None = getattr(manager, "memkit", None)
    if serving is not None:
        try:
            obj.lora_path = serving.adapters.path(obj.lora_name, obj.lora_path)
        except (MemkitError, OSError, ValueError) as error:
            return _not_loaded(f"memkit: {error}")
    return await original(manager, obj, *rest)


async def around_load_tensors(original: Callable[..., Any], manager: Any, obj: Any, *rest: Any) -> Any:
    """Around the loading of a LoRA that a client uploads: it must not have an artifact's name."""
    if str(obj.lora_name).startswith(ADAPTER):
        return _not_loaded(f"memkit: names that start with {ADAPTER} are kept for artifacts")
    return await original(manager, obj, *rest)


async def around_unload(original: Callable[..., Any], manager: Any, obj: Any) -> Any:
    """Around the unloading of a LoRA: removes the files of an artifact."""
    result = await original(manager, obj)
    serving: Plugin | None = getattr(manager, "memkit", None)
    if serving is not None and result.success:
        serving.adapters.unloaded(str(obj.lora_name))
    return result


def _not_loaded(reason: str) -> Any:
    from sglang.srt.managers.io_struct import LoadLoRAAdapterReqOutput

    return LoadLoRAAdapterReqOutput(success=False, error_message=reason)
