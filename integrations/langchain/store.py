"""`MemkitStore`: a LangGraph store whose items are memories."""

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
from memkit.bank.items import Item as Kept
from memkit.bank.owners import Owner, check_name
from memkit.document import Document
from memkit.errors import ConfigError, NotFoundError
from memkit.integrations.langchain.filters import fits, matches
from memkit.integrations.langchain.messages import clean
from memkit.memory import Memory
from memkit.router.indexing import index, refresh
from memkit.router.retrieval import retrieve
from memkit.text.normalize import is_blank

Namespace = tuple[str, ...]
OWNERS = 64  # namespaces that are kept ready to write to
LARGE = 1000  # from so many candidates on all items are read


class MemkitStore(BaseStore):
    """Items in a bank, found by meaning and words; each namespace owns what is in it.

    The namespaces lie beneath ``memory``'s user: ``("a", "b")`` of the user "app" is
    ``Owner("app", namespace=("a", "b"))``. No store sees what is not beneath its user. An item's texts (all
    of its value, or the paths that ``index`` names) are a memory, which `Memory.of` that owner can also
    answer from. ``PutOp(value=None)`` forgets it, with every artifact that saw it; so do an item's expiry, at
    the next write, and a new value. Keys have up to 1,024 bytes in UTF-8, as have user and namespace
    together; values are JSON of up to a million characters.

    ``ttl``: LangGraph's settings (minutes); items live longer when they are read, unless told otherwise.
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
        self._of = lru_cache(OWNERS)(self.memory.for_user)

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Carry out the operations: those that read see the store as it was before those that write.

        Of several that write one item the last counts. All are checked before the first is carried out.
        """
        results, puts = list[Result](), dict[tuple[Namespace, str], PutOp]()
        ops = list(ops)
        for op in ops:
            if isinstance(op, PutOp):
                self._checked(op)
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
    def _checked(self, op: PutOp) -> tuple[str, Document] | None:
        """An item's value as JSON, and the document that makes it found; None of one that is forgotten.

        Raises `ConfigError` or `DocumentError` for what cannot be kept.
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
            raise ConfigError(f"the value has {len(value):,} characters of JSON, the most is {MAX_VALUE:,}")
        return value, Document(clean(value) if is_blank(text) else text, _title(op.key))

    def _put(self, op: PutOp) -> None:
        memory, items = self._of(self._owner(op.namespace)), self.memory.bank.items
        self._forget(memory, items.stale(memory.owner) + items.expired(memory.owner, self._clock()))
        if (checked := self._checked(op)) is None:
            self._forget(memory, items.remove(memory.owner, op.key))
            return
        value, document = checked
        searched, embedder = not is_blank(clean(self._text(op))), memory.router.embedder
        refresh(memory.bank, memory.owner, embedder)
        made = index(document, embedder)
        while (
            replaced := items.put(
                memory.owner,
                op.key,
                value,
                document,
                lambda _: made,
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
            except NotFoundError:  # somebody else did
                continue

    def _text(self, op: PutOp) -> str:
        if op.index is False or op.value is None:
            return ""
        paths = op.index if isinstance(op.index, list) else self.index
        if paths is None:
            return "\n".join(_lines(op.value))
        found = [text for path in paths for text in get_text_at_path(dict(op.value), tokenize_path(path))]
        return "\n".join(text for text in found if not is_blank(text))

    # -- reading --------------------------------------------------------------------------------
    def _get(self, op: GetOp) -> Item | None:
        tenant, now = self._owner(op.namespace).name, self._clock()
        kept = self.memory.bank.items.get(tenant, op.key, now)
        if kept is None:
            return None
        self._used(op.refresh_ttl, [kept], now)
        return Item(**self._about(kept))

    def _search(self, op: SearchOp) -> list[SearchItem]:
        now, found = self._clock(), list[tuple[Kept, float | None]]()
        for tenant in self._beneath(op.namespace_prefix):
            found += self._best(tenant, op, now) if op.query else self._every(tenant, op, {}, now)
        if op.query:
            found.sort(key=lambda each: -each[1] if each[1] is not None else 1.0)
        shown = found[op.offset : op.offset + op.limit]
        self._used(op.refresh_ttl, [each for each, _ in shown], now)
        return [SearchItem(**self._about(each), score=score) for each, score in shown]

    def _best(self, tenant: str, op: SearchOp, now: datetime) -> list[tuple[Kept, float | None]]:
        """A tenant's items with their scores: no fewer of the best ones than are asked for."""
        bank, embedder, wanted = self.memory.bank, self.memory.router.embedder, op.offset + op.limit
        refresh(bank, tenant, embedder)
        width = 2 * wanted
        while True:
            ranked = retrieve(bank, tenant, op.query or "", embedder, memories=width)
            scores = {each.memory.id: each.strength for each in ranked}
            if len(ranked) < width or width > LARGE:
                return self._every(tenant, op, scores, now)
            kept = [each for each in bank.items.of(tenant, list(scores), now) if each.searched]
            found = [(each, scores[each.memory_id]) for each in kept if fits(each.value, op.filter)]
            if len(found) >= wanted:
                return list(found)
            width *= 4

    def _every(
        self, tenant: str, op: SearchOp, scores: Mapping[str, float], now: datetime
    ) -> list[tuple[Kept, float | None]]:
        kept = [each for each in self.memory.bank.items.all(tenant, now) if fits(each.value, op.filter)]
        return [(each, scores.get(each.memory_id) if each.searched else None) for each in kept]

    def _namespaces(self, op: ListNamespacesOp) -> list[Namespace]:
        wanted = op.match_conditions or ()
        all_of = [self._namespace(tenant) for tenant in self._beneath(())]
        matching = [each for each in all_of if all(matches(condition, each) for condition in wanted)]
        cut = sorted({each[: op.max_depth] for each in matching})
        return cut[op.offset : op.offset + op.limit]

    def _used(self, refresh_ttl: bool, kept: list[Kept], now: datetime) -> None:
        keys = defaultdict[str, list[str]](list)
        for each in kept:
            if refresh_ttl and each.ttl is not None:
                keys[each.tenant].append(each.key)
        for tenant, used in keys.items():
            self.memory.bank.items.used(tenant, used, now)

    # -- names ----------------------------------------------------------------------------------
    def _owner(self, namespace: Namespace) -> Owner:
        """Whose the items of a namespace are."""
        whose = self.memory.whose
        return Owner(whose.user, whose.tenant, (*whose.namespace, *namespace))

    def _namespace(self, tenant: str) -> Namespace:
        return Owner.of(tenant).namespace[len(self.memory.whose.namespace) :]

    def _beneath(self, prefix: Namespace) -> list[str]:
        """The names in the bank of those namespaces that begin with a prefix."""
        spaces = self.memory.bank.items.spaces(self.memory.owner, self._clock())
        wanted = (*self.memory.whose.namespace, *prefix)
        return [name for name in spaces if Owner.of(name).namespace[: len(wanted)] == wanted]

    def _about(self, kept: Kept) -> dict[str, Any]:
        return {
            "namespace": self._namespace(kept.tenant),
            "key": kept.key,
            "value": json.loads(kept.value),
            "created_at": kept.created,
            "updated_at": kept.updated,
        }


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _lines(value: Any, name: str = "") -> Iterable[str]:
    """The texts and numbers of a value, one a line; a name in front of each but where it is the only one."""
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
    """A value as JSON; halves of characters are escaped, for no catalog takes them."""
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
