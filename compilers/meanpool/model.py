"""The compressor: encodes each chunk of C tokens as one memory embedding, which a decoder reads.

References
    Bridging the Memorization-Utilization Gap (2026), §3.1 model architecture, Appendix B attention
    pooling, Appendix I.1 FQLoRA.

Departures, each a config field
    - ``decoder="frozen"``: the trained weights encode chunks and prefill the memory embeddings; the frozen
      base model reads questions and writes answers, with the resulting KV. The paper's decoder is the
      trained model (``"full"``; ``"lora"`` is the same with LoRA only, which can be served as an adapter).
    - The LoRA of FQLoRA is on weights in the base model's precision, not on 4-bit ones (QLoRA).
    - ``wrappers=False`` omits <MEM_START> and <MEM_END>: C tokens then take one position, not three.

Requirements
    A causal model with rotary positions and its layers at ``base_model.layers`` (Llama, Qwen2, Mistral ...).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from memkit.compilers.meanpool.batches import Batch, Chunks
from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.decoder_checkpoint import decoder_over, section
from memkit.engine.transformers.finetune import FinetuneConfig, FinetunedModel
from memkit.errors import ArtifactError
from memkit.models.loading import LoadedModel

Pooling = Literal["mean", "attention"]
Decoder = Literal["frozen", "lora", "full"]


@dataclass(frozen=True)
class CompressorConfig:
    """The shape of a compressor; the defaults are the paper's at 16x. Raises `ValueError` for invalid
    values."""

    chunk: int = 16  # C, tokens that become one memory embedding
    pooling: Pooling = "mean"
    wrappers: bool = True  # <MEM_START> and <MEM_END> around every embedding
    decoder: Decoder = "full"
    adapted: FinetuneConfig = field(default_factory=FinetuneConfig)

    def __post_init__(self) -> None:
        if type(self.chunk) is not int or self.chunk < 1:
            raise ValueError(f"chunk must be a number from 1 on, got {self.chunk!r}")
        for name, kinds in (("pooling", Pooling), ("decoder", Decoder)):
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(
                    f"{name} must be one of {', '.join(get_args(kinds))}, got {getattr(self, name)!r}"
                )
        if self.decoder == "lora" and (self.adapted.full_every or self.adapted.embeddings):
            raise ValueError("decoder='lora' is served as an adapter: full_every must be 0, embeddings false")

    @property
    def positions(self) -> int:
        """The number of positions of one chunk's memory."""
        return 3 if self.wrappers else 1

    @property
    def nominal_ratio(self) -> float:
        """C: tokens for each memory embedding."""
        return float(self.chunk)

    @property
    def effective_ratio(self) -> float:
        """C / 3 with wrapper tokens: tokens for each position that the decoder reads."""
        return self.chunk / self.positions


class AttentionPooling(nn.Module):
    """Pooling by grouped-query attention with one learned query per head (Appendix B's ablation)."""

    def __init__(self, hidden: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = heads, kv_heads, hidden // heads
        self.query = nn.Parameter(torch.randn(heads, self.size) * self.size**-0.5)
        self.keys = nn.Linear(hidden, kv_heads * self.size, bias=False)
        self.values = nn.Linear(hidden, kv_heads * self.size, bias=False)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """``hidden [chunk, token, hidden]``, ``mask [chunk, token]`` to ``[chunk, heads · head_dim]``."""
        chunks, tokens, _ = hidden.shape
        shape = (chunks, tokens, self.kv_heads, self.size)
        keys, values = (f(hidden).view(shape).transpose(1, 2) for f in (self.keys, self.values))
        query = self.query[None, :, None].expand(chunks, -1, -1, -1).to(keys.dtype)
        pooled = nn.functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask.bool()[:, None, None], enable_gqa=True
        )
        return pooled.reshape(chunks, self.heads * self.size)


class Head(nn.Module):
    """The trained modules on top of the encoder: projection, wrapper tokens and optionally attention pooling.

    The projection starts as a scaled identity, so that memory embeddings have the norm of token embeddings.
    """

    def __init__(self, base: LoadedModel, config: CompressorConfig) -> None:
        super().__init__()
        model = base.model
        table = model.get_input_embeddings().get_parameter("weight").detach().float()
        hidden = table.shape[1]
        self.pooling: AttentionPooling | None = None
        if config.pooling == "attention":
            heads = int(model.config.num_attention_heads)
            kv_heads = int(getattr(model.config, "num_key_value_heads", None) or heads)
            self.pooling = AttentionPooling(hidden, heads, kv_heads)
        self.projection = nn.Linear(hidden, hidden, bias=False)
        nn.init.eye_(self.projection.weight)
        self.wrappers = nn.Parameter(table.mean(0).expand(2, hidden).clone()) if config.wrappers else None
        self.to(table.device)

    @torch.no_grad()
    def scale_to(self, pooled: Tensor, table: Tensor) -> None:
        """Scale the projection by the ratio of the mean norms of ``table`` ``[vocabulary, hidden]`` and
        ``pooled`` ``[chunk, hidden]``."""
        norm = pooled.float().norm(dim=-1).mean().clamp(min=1e-6)
        self.projection.weight.mul_(table.float().norm(dim=-1).mean() / norm)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """``hidden [chunk, token, hidden]``, ``mask [chunk, token]`` to embeddings ``[chunk, hidden]``."""
        return self.projection(self.pool(hidden, mask))  # type: ignore[no-any-return] # a module's result

    def pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """The mean over a chunk's own tokens, without padding (eq. 1): ``[chunk, hidden]``."""
        if self.pooling is not None:
            return self.pooling(hidden, mask)  # type: ignore[no-any-return] # a module's result
        weight = mask[..., None].to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1)


class Compressor(nn.Module):
    """Encoder, head and decoder on a frozen base model, which is never changed.

    ``encoder`` and ``decoder`` share their weights until `separate_decoder`. With ``config.decoder ==
    "frozen"`` the decoder prefills only the memory embeddings, and the base model reads the rest.
    """

    def __init__(self, base: LoadedModel, config: CompressorConfig, seed: int = 0) -> None:
        super().__init__()
        self.base, self.config = base, config
        torch.manual_seed(seed)
        self.encoder = FinetunedModel(base.model, config.adapted, seed)
        self.decoder = self.encoder
        self.head = Head(base, config)
        with torch.no_grad():
            ids = torch.arange(64, device=base.model.device).view(4, 16) % len(base.tokenizer)
            hidden = base.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            table = base.model.get_input_embeddings().get_parameter("weight")
            self.head.scale_to(self.head.pool(hidden.float(), torch.ones_like(ids)), table)
        self.decoder_values: dict[str, Any] = {}

    @property
    def trained(self) -> list[nn.Parameter]:
        """All trainable weights of encoder, head and decoder."""
        own = [] if self.decoder is self.encoder else self.decoder.parameters
        return [*self.encoder.parameters, *self.head.parameters(), *own]

    def separate_decoder(self, rank: int, seed: int = 0) -> None:
        """Give the decoder its own weights: a LoRA on the encoder's, or with rank 0 a copy of them.

        Initially its output is unchanged. Raises `ModelError` for a LoRA on an encoder that is one already.
        """
        inner = self.config.adapted
        lora = {"full_every": 0, "rank": rank, "alpha": 2.0 * rank, "dropout": 0.0, "embeddings": False}
        self.decoder_values = {**asdict(inner), **lora} if rank else {**asdict(inner), "apart": True}
        self.decoder_values["targets"] = list(inner.targets)
        self.decoder = decoder_over(self.encoder, self.base, self.decoder_values)
        if not rank:
            self.decoder.load(self.encoder.state())

    def tensors(self) -> dict[str, Tensor]:
        """All trained weights by their names in a checkpoint."""
        tensors = {f"encoder.{name}": t for name, t in self.encoder.state().items()}
        tensors |= {f"head.{name}": p.detach() for name, p in self.head.named_parameters()}
        if self.decoder is not self.encoder:
            tensors |= {f"decoder.{name}": t for name, t in self.decoder.state().items()}
        return tensors

    def load(self, tensors: Mapping[str, Tensor], decoder: Mapping[str, Any]) -> None:
        """Load a checkpoint's weights. Raises `ArtifactError` unless names and shapes match."""
        self.encoder.load(section(tensors, "encoder"))
        self.decoder_values, self.decoder = dict(decoder), decoder_over(self.encoder, self.base, decoder)
        if self.decoder is not self.encoder:
            self.decoder.load(section(tensors, "decoder"))
        try:
            self.head.load_state_dict(section(tensors, "head"))
        except RuntimeError as error:
            raise ArtifactError(f"not a sound checkpoint: {error}") from error

    def frozen(self) -> Compressor:
        """This compressor, prepared for inference in the base model's dtype; it can no longer be trained."""
        dtype = self.base.model.dtype
        for part in (self.encoder, self.decoder):
            part.frozen(dtype)
        self.head.to(dtype).requires_grad_(False)
        return self

    @property
    def answering(self) -> Any:
        """The model that reads questions and writes answers."""
        return self.base.model if self.config.decoder == "frozen" else self.decoder.student

    def encode(self, chunks: Chunks) -> Tensor:
        """Memory embeddings ``[chunk, hidden]``; every chunk is encoded independently (§3.1)."""
        out = self.encoder.student.base_model(input_ids=chunks.ids, use_cache=False)
        return self.head(out.last_hidden_state, chunks.mask)  # type: ignore[no-any-return] # a module's result

    def embed(self, ids: Sequence[int], batch: int = 256) -> Tensor:
        """Memory embeddings ``[chunk, hidden]`` of one document, ``batch`` chunks at a time."""
        parts = kv_cache.chunked(list(kv_cache.chunked(list(ids), self.config.chunk)), batch)
        with torch.no_grad():
            embeddings = [self.encode(Chunks.of(part, self.base.model.device)) for part in parts]
        return torch.cat(embeddings).float()

    def wrapped(self, embeddings: Tensor) -> Tensor:
        """Add wrapper tokens: ``[…, chunk, hidden]`` to the decoder's input ``[…, chunk · positions,
        hidden]``."""
        if self.head.wrappers is None:
            return embeddings
        shape = embeddings.shape
        start, end = (w.to(embeddings.dtype).expand(shape) for w in self.head.wrappers)
        return torch.stack((start, embeddings, end), -2).flatten(-3, -2)

    def front(self, header: Sequence[int]) -> kv_cache.KVCache | None:
        """The header's KV, computed by the model that answers; None without a header."""
        if not header:
            return None
        frozen = self.config.decoder == "frozen"
        with torch.no_grad() if frozen else nullcontext():
            ids = torch.tensor([list(header)], device=self.base.model.device)
            cache = DynamicCache()
            self.answering.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
        return kv_cache.KVCache.of(cache)

    def read(self, memory: Tensor, front: kv_cache.KVCache | None, mask: Tensor | None = None) -> Any:
        """The cache after the decoder has prefilled wrapped embeddings ``[batch, position, hidden]``.

        ``mask`` ``[batch, position]`` is 0 at padding, which is never attended to.
        """
        rows, width = memory.shape[:2]
        before = front.tokens if front else 0
        cache = front.cache(rows) if front else DynamicCache()
        visible = torch.ones(rows, before + width, dtype=torch.long, device=memory.device)
        if mask is not None:
            visible[:, before:] = mask
        positions = torch.arange(before, before + width, device=memory.device)[None].expand(rows, -1)
        self.decoder.student.base_model(
            inputs_embeds=memory,
            attention_mask=visible,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        return cache

    def forward(self, batch: Batch, embeddings: Tensor | None = None) -> Tensor:
        """Log-probabilities ``[target tokens]`` of a batch's targets given their memories (eq. 2).

        ``embeddings`` ``[chunk, hidden]`` are computed from the batch's chunks by default.
        """
        if embeddings is None and batch.chunks is not None:
            embeddings = self.encode(batch.chunks)
        prefix, rows = self.front(batch.header), len(batch.ids)
        cache = None if prefix is None else prefix.cache(rows)
        if embeddings is not None:
            samples, width = batch.memory_mask.shape
            placed = embeddings.new_zeros(samples, width // self.config.positions, embeddings.shape[-1])
            placed = placed.index_put((batch.chunk_row, batch.chunk_place), embeddings)
            cache = self.read(self.wrapped(placed), prefix, batch.memory_mask)
            cache.batch_select_indices(batch.sample)
        hidden = self.answering.base_model(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        logits = self.answering.get_output_embeddings()(hidden[batch.row, batch.column]).float()
        return -nn.functional.cross_entropy(logits, batch.target, reduction="none")
