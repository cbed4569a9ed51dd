"""SGLang's interface to an external KV store, implemented over a bank: loads artifacts into the KV pool.

It is read-only. A failed load fails the request, with nothing cached: SGLang would otherwise compute the
placeholders as text and cache the result under the artifact's key.
`memkit.engine.sglang.plugin.scheduler_guard` tells the linker which artifact a request claims, and fails
requests that SGLang would run without it.
"""

from __future__ import annotations

import logging
from array import array
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from sglang.srt.mem_cache.hicache_storage import PoolName
from sglang.srt.mem_cache.radix_cache import RadixKey
from sglang.srt.mem_cache.unified_cache.unified_cache_linker import LayerWiseLoadCounter, UnifiedCacheLinker
from sglang.srt.mem_cache.utils import get_storage_hash_str
from sglang.srt.runtime_context import get_parallel

from memkit.engine.sglang.plugin import scheduler_guard
from memkit.engine.sglang.plugin.artifact_files import Artifacts, files_of
from memkit.engine.sglang.plugin.config import PluginConfig
from memkit.engine.sglang.plugin.header import Header
from memkit.engine.sglang.plugin.kv_pages import Pages, Share, heads_of, require_pooled
from memkit.engine.sglang.plugin.protocol import PLACEHOLDER, Claim, page_hashes
from memkit.errors import ArtifactError, ConfigError, EngineError, MemkitError

log = logging.getLogger(__name__)
MAX_ENTRIES = 4096  # of the tables of matched requests and of page hashes


@dataclass(frozen=True)
class Loading:
    """A load of an artifact's positions, from ``start`` on, into the pool's slots ``indices`` ``[token]``.

    A negative ``start`` makes the load fail.
    """

    claim: Claim
    start: int
    indices: torch.Tensor


@dataclass(frozen=True)
class Expected:
    """The artifact at the start of a request's prompt, of which the device has ``cached`` positions.

    ``tokens`` counts header and artifact; None if the artifact cannot be opened.
    """

    claim: Claim
    salt: str | None
    cached: int
    tokens: int | None


class MemkitLinker(UnifiedCacheLinker):  # type: ignore[misc] # SGLang is not installed where this is checked
    """Loads artifacts of kind ``kv``, preceded by the header, into one rank's KV pool."""

    def __init__(
        self,
        server_args: Any,
        params: Any,
        *,
        components: Any,
        extra_config: Mapping[str, Any] | None = None,
        forward_stream: Any = None,
    ) -> None:
        scheduler_guard.require_installed()
        config = PluginConfig.of(extra_config)
        self.prefix = Header.open(config.prefix)
        self.artifacts = Artifacts(files_of(config), config.capacity)
        self.page = int(params.page_size)
        self.pool = params.token_to_kv_pool_allocator.get_kvcache()
        self.forward_stream = forward_stream
        self.pools = {PoolName.KV: self.pool}
        self.layer_done_counter = LayerWiseLoadCounter(self.pool.layer_num)
        self._share = _share(self.prefix, self.pool)
        self._expected: Expected | None = None
        self._queued: dict[str, Loading] = {}
        self._matched: OrderedDict[str, tuple[Claim, int]] = OrderedDict()  # claim and start, by request id
        self._hashes: OrderedDict[tuple[str, str | None], list[str]] = OrderedDict()  # of a prefix's pages
        self._running: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, "memkit-load")
        _check_server(server_args, self.page)

    # -- what a request may load ----------------------------------------------------------------
    def expect(self, claim: Claim | None, salt: str | None, cached: int) -> Expected | None:
        """Called before each `lookup` with the artifact that the request claims and the cached positions."""
        self._expected = None
        if claim is None or claim.kind != "kv":
            return None
        try:
            artifact = self.artifacts.get(claim, self.prefix.fingerprint, verify=False)
            tokens: int | None = len(self.prefix.ids) + artifact.manifest.tokens
        except MemkitError as error:
            log.error("artifact %s cannot be loaded: %s", claim.artifact[:12], error)
            tokens = None
        self._expected = Expected(claim, salt, cached, tokens)
        return self._expected

    def lookup(self, rid: str, transfers: list[Any]) -> list[int]:
        expected = self._expected
        self._matched.pop(rid, None)
        if expected is None:
            return []
        (keys,) = (transfer.keys for transfer in transfers if transfer.name == PoolName.KV)
        if expected.tokens is not None:
            if expected.cached >= expected.tokens:
                return []
            missing = self._pages_of(expected.claim, expected.salt, expected.tokens)
            missing = missing[expected.cached // self.page :]
            if missing and keys[: len(missing)] == missing:
                self._match(rid, expected.claim, expected.cached)
                return [len(missing)]
        # Reported as found, so that the load fails the request instead of placeholders being computed.
        self._match(rid, expected.claim, -1)
        return [len(keys)]

    def _match(self, rid: str, claim: Claim, start: int) -> None:
        self._matched[rid] = claim, start
        if len(self._matched) > MAX_ENTRIES:  # entries of requests that were cancelled while queued
            self._matched.popitem(last=False)

    def _pages_of(self, claim: Claim, salt: str | None, tokens: int) -> list[str]:
        """The hashes of the pages of header and artifact."""
        hashes = self._hashes.pop((claim.key, salt), None)
        if hashes is None:
            ids = [*self.prefix.ids, *[PLACEHOLDER] * (tokens - len(self.prefix.ids))]
            hashes = page_hashes(ids, self.page, claim.key, salt)
        self._hashes[claim.key, salt] = hashes
        if len(self._hashes) > MAX_ENTRIES:
            self._hashes.popitem(last=False)
        return hashes

    # -- loading --------------------------------------------------------------------------------
    def load(self, rid: str, transfers: list[Any]) -> bool:
        if rid not in self._matched:
            return False  # SGLang would compute the prefix now; the scheduler guard fails the request
        claim, start = self._matched.pop(rid)
        (indices,) = (transfer.device_indices for transfer in transfers if transfer.name == PoolName.KV)
        self._queued[rid] = Loading(claim, start, indices)
        return True

    def start_layer_wise_loading(self) -> int:
        if not self._queued:
            return -1
        index = int(self.layer_done_counter.update_producer())
        batch, self._queued = list(self._queued.values()), {}
        ready = self.record_offload_ready() if self.pool.k_buffer[0].is_cuda else []
        self._running = self._thread.submit(self._run, index, batch, ready)
        return index

    def _run(self, index: int, batch: list[Loading], ready: list[Any]) -> None:
        try:
            if ready:
                stream = torch.cuda.Stream(self.pool.k_buffer[0].device)
                with torch.cuda.stream(stream):
                    for event in ready:
                        stream.wait_event(event)
                    self._copy(index, batch, stream)
            else:
                self._copy(index, batch, None)
        except BaseException as error:  # in any case the requests that wait for this load must fail
            log.error("artifacts were not loaded: %s", error)
            self.layer_done_counter.fail(index, error)

    def _copy(self, index: int, batch: list[Loading], stream: Any) -> None:
        """Copy layer by layer, so that the model can start on the first layers while others are loading."""
        work = [(self._pages(each), each) for each in batch]
        for layer in range(self.pool.layer_num):
            for pages, each in work:
                stop = each.start + len(each.indices)
                buffers = self.pool.k_buffer[layer], self.pool.v_buffer[layer]
                rows = pages.rows(layer, each.start, stop, buffers[0].dtype)
                for buffer, part in zip(buffers, rows, strict=True):
                    buffer[each.indices] = part.to(buffer.device)
            if stream is not None:
                stream.synchronize()
            self.layer_done_counter.complete(index, layer)

    def _pages(self, each: Loading) -> Pages:
        if each.start < 0:
            raise ArtifactError(f"artifact {each.claim.artifact[:12]} cannot be loaded")
        artifact = self.artifacts.get(each.claim, self.prefix.fingerprint, verify=True)
        pages = Pages(self.prefix, artifact, self._share)
        if each.start + len(each.indices) > pages.tokens:
            raise ArtifactError(f"artifact {each.claim.artifact[:12]} has fewer positions than were matched")
        return pages

    def finish_layer_wise_loading(self, counter_index: int) -> bool:
        return bool(self.layer_done_counter.finish(counter_index))

    def cancel_queued_load(self, rid: str) -> bool:
        self._matched.pop(rid, None)
        return self._queued.pop(rid, None) is not None

    # -- writing is not supported ---------------------------------------------------------------
    def offload(self, transfers: list[Any], session_id: str | None = None) -> bool:
        return False

    def num_completed_offloads(self) -> int:
        return 0

    def pop_completed_offload(self) -> bool:
        return False

    def reset(self) -> None:
        if self._running is not None:
            self._running.result()
        self._queued.clear()
        self._matched.clear()
        self.layer_done_counter.reset()

    def close(self) -> None:
        self.reset()
        self._thread.shutdown()


def _share(prefix: Header, pool: Any) -> Share:
    """This rank's layers and heads. Raises `EngineError` for a pool with an unsupported layout."""
    buffers = getattr(pool, "k_buffer", None)
    if not buffers or buffers[0].dim() != 3 or getattr(pool, "use_hnd", False):
        raise EngineError(f"memkit cannot write a KV cache of the type {type(pool).__name__}")
    require_pooled(buffers[0].dtype)
    parallel = get_parallel()
    heads = heads_of(prefix.keys.shape[1], int(parallel.attn_tp_size), int(parallel.attn_tp_rank))
    start = int(getattr(pool, "start_layer", 0) or 0)
    share = Share(slice(start, start + int(pool.layer_num)), heads)
    own = prefix.keys[share.layers, share.heads]
    if own.shape[0] != pool.layer_num or tuple(own.shape[1::2]) != tuple(buffers[0].shape[1:]):
        raise EngineError(
            f"the header's shape, [layer, kv_head, token, head_dim], is {list(prefix.keys.shape)}, not "
            "that of this server's model; run memkit sglang-args for it"
        )
    return share


def _check_server(server_args: Any, page: int) -> None:
    """Raise `ConfigError` for unsupported server arguments, or another way of hashing pages."""
    if getattr(server_args, "speculative_algorithm", None):
        raise ConfigError("speculative decoding has a cache that artifacts do not fill: leave it out")
    ids, key, salt = list(range(2 * page)), "memkit:self-test", "salt"
    expected = get_storage_hash_str(RadixKey(array("q", ids), extra_key=key, cache_salt=salt), page_size=page)
    if list(expected) != page_hashes(ids, page, key, salt):
        raise ConfigError("this SGLang names cache pages in another way; memkit doctor tells which fit")
