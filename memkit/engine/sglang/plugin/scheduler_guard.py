"""Hooks in SGLang's scheduler that keep it from computing an artifact's placeholders as text.

SGLang does so whenever an external store provides less than the whole prefix. The hooks tell the linker which
artifact a request claims, and mark a request whose prefix is incomplete: it ends with an error, and nothing
of it is cached.
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
    """Around the lookup in the external store of the part of a prefix that is not cached on the device."""
    linker = wrapper.cache_linker
    if not hasattr(linker, "expect"):
        return original(wrapper, key, req, result)
    _clear(req)
    try:
        claim = Claim.parse(key.extra_key)
    except EngineError:  # refused by the request checks; if it got here, it would be computed as text
        mark(req)
        return result
    expected = linker.expect(claim, key.cache_salt, result.device_prefix_len)
    match = original(wrapper, key, req, result)
    if expected is not None and not _is_complete(match, expected.tokens):
        mark(req)
    return match


def _is_complete(match: Any, tokens: int | None) -> bool:
    """Whether the positions on the device and those to be loaded make up the whole prefix.

    For an artifact that cannot be opened, the linker reports all pages as found, so that the load fails.
    """
    if tokens is None:
        return bool(match.host_hit_length > 0)
    return bool(match.device_prefix_len + match.host_hit_length >= tokens)


def after_load_back(result: Any, cache: Any, params: Any) -> Any:
    """After a load was queued: marks a request whose load was dropped for lack of room."""
    req = params.req
    if result is not None and req is not None and str(req.extra_key or "").startswith("memkit:kv:"):
        expected = req.host_hit_length
        if cache.linker is not None and result[0] < expected:
            mark(req)
    return None


def mark(req: Any) -> None:
    """Make a request end with an error after its next step, and keep its KV out of the cache."""
    from sglang.srt.managers.schedule_batch import FINISH_ABORT

    req.memkit_marked = True
    req.skip_radix_cache_insert = True
    req.discard_output_reason = FINISH_ABORT(MESSAGE, HTTPStatus.SERVICE_UNAVAILABLE)


def _clear(req: Any) -> None:
    """Remove the mark of a request that is matched again before it ran."""
    if getattr(req, "memkit_marked", False):
        req.memkit_marked = False
        req.skip_radix_cache_insert = False
        req.discard_output_reason = None
