"""What the scheduler may not do with a request that names an artifact: compute its placeholders as text.

SGLang falls back to that wherever a store gives less than the whole prefix. The hooks here run in the
scheduler's process; they tell the linker what a request names, and mark a request whose prefix is not whole,
so that it ends with an error and nothing of it is cached.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from memkit.engine.sglang.plugin.protocol import Claim
from memkit.errors import ConfigError, EngineError

MATCH = "sglang.srt.mem_cache.unified_cache.unified_cache_linker.UnifiedCacheLinkerWrapper.match"
LOAD_BACK = "sglang.srt.mem_cache.unified_radix_cache.UnifiedRadixCache.init_load_back"
MESSAGE = "memkit: the artifact could not be loaded; try again"


def install() -> None:
    """Register the hooks with SGLang."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(MATCH, around_match, HookType.AROUND)
    HookRegistry.register(LOAD_BACK, after_load_back, HookType.AFTER)


def require_installed() -> None:
    """Raise `ConfigError` unless the hooks are in place in this process."""
    from sglang.srt.plugins.hook_registry import HookRegistry

    if not {MATCH, LOAD_BACK} <= HookRegistry._patched:
        raise ConfigError(
            "the plugin memkit is not loaded in this server: install memkit beside SGLang, and let "
            "SGLANG_PLUGINS, if it is set, name memkit"
        )


def around_match(original: Callable[..., Any], wrapper: Any, key: Any, req: Any, result: Any) -> Any:
    """Around the search of a store for what the device lacks of a request's prefix."""
    linker = wrapper.cache_linker
    if not hasattr(linker, "expect"):
        return original(wrapper, key, req, result)
    _clear(req)
    try:
        claim = Claim.parse(key.extra_key)
    except EngineError:  # admission refuses it; here it would be computed
        mark(req)
        return result
    expected = linker.expect(claim, key.cache_salt, result.device_prefix_len)
    found = original(wrapper, key, req, result)
    if expected is not None and not _whole(found, expected.tokens):
        mark(req)
    return found


def _whole(found: Any, tokens: int | None) -> bool:
    """Whether what the device holds and what is going to be loaded make up the prefix.

    Of an artifact that cannot be opened everything was claimed, so that its load fails.
    """
    if tokens is None:
        return bool(found.host_hit_length > 0)
    return bool(found.device_prefix_len + found.host_hit_length >= tokens)


def after_load_back(result: Any, cache: Any, params: Any) -> Any:
    """After the queuing of a load: one without room was dropped, and would be computed instead."""
    req = params.req
    if result is not None and req is not None and str(req.extra_key or "").startswith("memkit:kv:"):
        promised = req.host_hit_length
        if cache.linker is not None and result[0] < promised:
            mark(req)
    return None


def mark(req: Any) -> None:
    """Let a request end with an error after its next step, and keep what it computes out of the cache."""
    from sglang.srt.managers.schedule_batch import FINISH_ABORT

    req.memkit_marked = True
    req.skip_radix_cache_insert = True
    req.discard_output_reason = FINISH_ABORT(MESSAGE, HTTPStatus.SERVICE_UNAVAILABLE)


def _clear(req: Any) -> None:
    """A request that is matched again, before it ran, starts afresh."""
    if getattr(req, "memkit_marked", False):
        req.memkit_marked = False
        req.skip_radix_cache_insert = False
        req.discard_output_reason = None
