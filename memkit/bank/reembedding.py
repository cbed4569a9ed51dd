"""All of a tenant's chunks and vectors, made anew from their sources."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from memkit.bank import statements, vector_rows
from memkit.bank.catalog import AnyCatalog
from memkit.bank.conversation_logs import Embed, chunk_spans, embed_chunks
from memkit.document import Document, Span


def reembed(catalog: AnyCatalog, tenant: str, embedder: str, embed: Embed, embed_entry: Embed) -> int:
    """See `memkit.bank.Bank.reembed`."""
    with catalog.read() as connection:
        found = [
            (i.running, *_pieces(connection, tenant, i.id)) for i in statements.infos(connection, tenant)
        ]
    made = {
        document.digest: embed_chunks(document, parts, embed_entry if running else embed)
        for running, document, parts in found
    }
    with catalog.write() as connection:
        infos = statements.infos(connection, tenant)
        vector_rows.delete_chunks(connection, tenant)
        for info in infos:
            document, parts = _pieces(connection, tenant, info.id)
            known = made.get(document.digest)
            chunks, vectors = known or embed_chunks(document, parts, embed_entry if info.running else embed)
            vector_rows.insert_chunks(connection, tenant, info.id, chunks, vectors)
        vector_rows.set_embedder(connection, tenant, embedder)
    return len(infos)


def _pieces(connection: Connection, tenant: str, memory_id: str) -> tuple[Document, Sequence[Span]]:
    document = statements.source(connection, tenant, memory_id)
    return document, chunk_spans(connection, tenant, memory_id, document)
