"""`MemkitStore`: a LangGraph store in which every item is a memory."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
)
from langgraph.store.base.embed import get_text_at_path, tokenize_path

from memkit.bank.items import MAX_ITEM_KEY, MAX_TTL, MAX_VALUE
from memkit.bank.items import Item as StoredItem
from memkit.bank.owners import Owner, check_name
from memkit.document import Document
from memkit.errors import ConfigError, NotFoundError
from memkit.integrations.langchain.filters import matches_filter, matches_namespace
from memkit.integrations.langchain.messages import clean
from memkit.memory import Memory
from memkit.router.indexing import index, refresh
from memkit.router.retrieval import retrieve
from memkit.text.normalize import is_blank

Namespace = tuple[str, ...]
CACHED_OWNERS = 64
MAX_RANKED = 1000  # a search that needs more candidates reads all items


class MemkitStore(BaseStore):
    """Items in a bank, searched by meaning and words; every namespace is an owner of its own.

    Namespaces lie beneath the user of ``memory``: ``("a", "b")`` of the user "app" is
    ``Owner("app", namespace=("a", "b"))``. A store sees only what is beneath its user. The texts of an item
    (its whole value, or the paths in ``index``) form a memory, from which `Memory.for_user` of that owner
    can also answer. ``PutOp(value=None)`` forgets the item and every artifact that was compiled from it; a
    new value does the same with the old one. Expired items are forgotten at the namespace's next write.

    ``ttl`` are LangGraph's settings, in minutes; reading an item renews its time to live unless they say
    otherwise. ``clock`` returns the time; None means now, in UTC. A key has at most 1,024 bytes in UTF-8, and
    so have user and namespace together; a value is JSON of at most a million characters.
    """

    supports_ttl = True

    def __init__(
        self,
        memory: Memory | None = None,
        *,
        ttl: TTLConfig | None = None,
        index: list[str] | None = None,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        self.memory, self.ttl_config, self.index = memory or Memory(), ttl, index
        self._clock = clock or _utc_now
        self._memory_for = lru_cache(CACHED_OWNERS)(self.memory.for_user)

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Carry out operations and return their results in order.

        Reads see the store as it was before the writes. Of several writes of one item the last counts. All
        operations are checked before the first write. Raises `ConfigError` or `DocumentError` for a write
        that is not valid.
        """
        results, puts = list[Result](), dict[tuple[Namespace, str], PutOp]()
        ops = list(ops)
        for op in ops:
            if isinstance(op, PutOp):
                self._check(op)
        for op in ops:
            if isinstance(op, GetOp):
                results.append(self._get(op))
            elif isinstance(op, SearchOp):
                results.append(self._search(op))
            elif isinstance(op, ListNamespacesOp):
                results.append(self._namespaces(op))
            elif isinstance(op, PutOp):
                puts[op.namespace, op.key] = op
                results.append(None)
            else:
                raise ConfigError(f"a store has no operation {type(op).__name__}")
        for put in puts.values():
            self._put(put)
        return results

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """As `batch`, in a thread."""
        return await asyncio.to_thread(self.batch, list(ops))

    # -- writing --------------------------------------------------------------------------------
    def _check(self, op: PutOp) -> tuple[str, Document] | None:
        """The value as JSON and the document to index; None if the operation forgets the item.

        Raises `ConfigError` or `DocumentError` for a key or value that cannot be stored.
        """
        self._owner(op.namespace)
        if op.value is None:
            return None
        check_name("key", op.key)
        if (size := len(op.key.encode())) > MAX_ITEM_KEY:
            raise ConfigError(f"a key has at most {MAX_ITEM_KEY:,} bytes in UTF-8, got {size:,}")
        if op.ttl is not None and not 0 < op.ttl <= MAX_TTL:
            raise ConfigError(f"ttl is a number of minutes above 0 and up to {MAX_TTL:,}, got {op.ttl}")
        value, text = _json(op.value), clean(self._text(op))
        if len(value) > MAX_VALUE:
            raise ConfigError(f"a value has at most {MAX_VALUE:,} characters of JSON, got {len(value):,}")
        return value, Document(clean(value) if is_blank(text) else text, _title(op.key))

    def _put(self, op: PutOp) -> None:
        memory, items = self._memory_for(self._owner(op.namespace)), self.memory.bank.items
        self._forget(memory, items.stale(memory.owner) + items.expired(memory.owner, self._clock()))
        if (checked := self._check(op)) is None:
            self._forget(memory, items.remove(memory.owner, op.key))
            return
        value, document = checked
        searched, embedder = not is_blank(clean(self._text(op))), memory.router.embedder
        refresh(memory.bank, memory.owner, embedder)
        indexed = index(document, embedder)
        while (
            replaced := items.put(
                memory.owner,
                op.key,
                value,
                document,
                lambda _: indexed,
                embedder=embedder.name,
                searched=searched,
                ttl=op.ttl,
                now=self._clock(),
            )
        ) is None:
            self._forget(memory, items.stale(memory.owner))
        self._forget(memory, replaced)

    @staticmethod
    def _forget(memory: Memory, memory_ids: Iterable[str]) -> None:
        for memory_id in memory_ids:
            try:
                memory.forget(memory_id)
            except NotFoundError:  # another process was faster
                continue

    def _text(self, op: PutOp) -> str:
        if op.index is False or op.value is None:
            return ""
        paths = op.index if isinstance(op.index, list) else self.index
        if paths is None:
            return "\n".join(_lines(op.value))
        texts = [text for path in paths for text in get_text_at_path(dict(op.value), tokenize_path(path))]
        return "\n".join(text for text in texts if not is_blank(text))

    # -- reading --------------------------------------------------------------------------------
    def _get(self, op: GetOp) -> Item | None:
        tenant, now = self._owner(op.namespace).name, self._clock()
        item = self.memory.bank.items.get(tenant, op.key, now)
        if item is None:
            return None
        self._renew(op.refresh_ttl, [item], now)
        return Item(**self._fields(item))

    def _search(self, op: SearchOp) -> list[SearchItem]:
        now, scored = self._clock(), list[tuple[StoredItem, float | None]]()
        for tenant in self._beneath(op.namespace_prefix):
            scored += self._best(tenant, op, now) if op.query else self._all(tenant, op, {}, now)
        if op.query:
            scored.sort(key=lambda pair: -pair[1] if pair[1] is not None else 1.0)
        page = scored[op.offset : op.offset + op.limit]
        self._renew(op.refresh_ttl, [item for item, _ in page], now)
        return [SearchItem(**self._fields(item), score=score) for item, score in page]

    def _best(self, tenant: str, op: SearchOp, now: datetime) -> list[tuple[StoredItem, float | None]]:
        """A tenant's best matching items with their scores, at least as many as the page needs."""
        bank, embedder, wanted = self.memory.bank, self.memory.router.embedder, op.offset + op.limit
        refresh(bank, tenant, embedder)
        width = 2 * wanted
        while True:
            ranked = retrieve(bank, tenant, op.query or "", embedder, memories=width)
            scores = {candidate.memory.id: candidate.strength for candidate in ranked}
            if len(ranked) < width or width > MAX_RANKED:
                return self._all(tenant, op, scores, now)
            items = [item for item in bank.items.of(tenant, list(scores), now) if item.searched]
            scored = [
                (item, scores[item.memory_id]) for item in items if matches_filter(item.value, op.filter)
            ]
            if len(scored) >= wanted:
                return list(scored)
            width *= 4

    def _all(
        self, tenant: str, op: SearchOp, scores: Mapping[str, float], now: datetime
    ) -> list[tuple[StoredItem, float | None]]:
        """All matching items of a tenant, with a score where there is one."""
        items = [
            item for item in self.memory.bank.items.all(tenant, now) if matches_filter(item.value, op.filter)
        ]
        return [(item, scores.get(item.memory_id) if item.searched else None) for item in items]

    def _namespaces(self, op: ListNamespacesOp) -> list[Namespace]:
        conditions = op.match_conditions or ()
        namespaces = [self._namespace(tenant) for tenant in self._beneath(())]
        matching = [
            namespace
            for namespace in namespaces
            if all(matches_namespace(condition, namespace) for condition in conditions)
        ]
        truncated = sorted({namespace[: op.max_depth] for namespace in matching})
        return truncated[op.offset : op.offset + op.limit]

    def _renew(self, refresh_ttl: bool, items: list[StoredItem], now: datetime) -> None:
        """Renew the time to live of items that were read."""
        keys = defaultdict[str, list[str]](list)
        for item in items:
            if refresh_ttl and item.ttl is not None:
                keys[item.tenant].append(item.key)
        for tenant, used in keys.items():
            self.memory.bank.items.used(tenant, used, now)

    # -- names ----------------------------------------------------------------------------------
    def _owner(self, namespace: Namespace) -> Owner:
        """The owner of a namespace's items."""
        root = self.memory.whose
        return Owner(root.user, root.tenant, (*root.namespace, *namespace))

    def _namespace(self, tenant: str) -> Namespace:
        return Owner.of(tenant).namespace[len(self.memory.whose.namespace) :]

    def _beneath(self, prefix: Namespace) -> list[str]:
        """The names of the owners whose namespace starts with ``prefix``."""
        names = self.memory.bank.items.spaces(self.memory.owner, self._clock())
        start = (*self.memory.whose.namespace, *prefix)
        return [name for name in names if Owner.of(name).namespace[: len(start)] == start]

    def _fields(self, item: StoredItem) -> dict[str, Any]:
        return {
            "namespace": self._namespace(item.tenant),
            "key": item.key,
            "value": json.loads(item.value),
            "created_at": item.created,
            "updated_at": item.updated,
        }


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _lines(value: Any, name: str = "") -> Iterable[str]:
    """The texts and numbers of a value, one a line; each after its name, unless it is the only one."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            inner = "" if len(value) == 1 else f"{name} {key}".strip()
            yield from _lines(each, inner)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _lines(each, name)
    elif value is not None and not isinstance(value, bool) and not is_blank(str(value)):
        yield f"{name}: {value}" if name else str(value)


def _json(value: Any) -> str:
    """A value as JSON; lone surrogates are escaped, as databases reject them."""
    try:
        text = json.dumps(value, ensure_ascii=False)
        return text if text.isascii() or _encodable(text) else json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"a value must be JSON: {error}") from error


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _title(key: str) -> str:
    """A key as a memory's title, on one line."""
    return " ".join(clean(key).split())
