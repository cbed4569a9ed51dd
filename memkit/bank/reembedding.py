"""Rebuild all chunks and vectors of a tenant from the source texts, with another embedder."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from memkit.bank import statements, vector_rows
from memkit.bank.catalog import AnyCatalog
from memkit.bank.conversation_logs import Embed, chunk_spans, embed_chunks
from memkit.document import Document, Span


def reembed(catalog: AnyCatalog, tenant: str, embedder: str, embed: Embed, embed_entry: Embed) -> int:
    """Rebuild the tenant's chunks and return its number of memories; see `memkit.bank.Bank.reembed`."""
    with catalog.read() as connection:
        sources = [
            (info.running, *_source(connection, tenant, info.id))
            for info in statements.infos(connection, tenant)
        ]
    embedded = {
        document.digest: embed_chunks(document, parts, embed_entry if running else embed)
        for running, document, parts in sources
    }
    with catalog.write() as connection:
        infos = statements.infos(connection, tenant)
        vector_rows.delete_chunks(connection, tenant)
        for info in infos:
            document, parts = _source(connection, tenant, info.id)
            chunks, vectors = embedded.get(document.digest) or embed_chunks(  # remembered in the meantime
                document, parts, embed_entry if info.running else embed
            )
            vector_rows.insert_chunks(connection, tenant, info.id, chunks, vectors)
        vector_rows.set_embedder(connection, tenant, embedder)
    return len(infos)


def _source(connection: Connection, tenant: str, memory_id: str) -> tuple[Document, Sequence[Span]]:
    document = statements.source(connection, tenant, memory_id)
    return document, chunk_spans(connection, tenant, memory_id, document)
