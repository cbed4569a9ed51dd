"""The encoder of LCC: the model with a disposable LoRA reads ``[context][buffer]``; the buffer's KV is
kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from memkit.compilers.distillation.flops import FlopMeter
from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.lora import shared_copy
from memkit.errors import CompileError
from memkit.models import rotary
from memkit.models.loading import LoadedModel

Init = Literal["chunk_mean", "vocabulary_mean"]


class BufferEncoder:
    """Encodes a context into ``count`` buffer tokens (LCC §3.2 bottleneck, §3.3 disposable LoRA).

    ``before`` is the KV in front of the context: the prompt's header and the memories of earlier segments.
    ``embedded`` are the context's input embeddings ``[1, n, hidden]``, ``buffer`` the trained ones ``[1, K,
    hidden]``. Raises `CompileError` for a model without rotary positions or without the LoRA's ``targets``.
    """

    def __init__(
        self,
        base: LoadedModel,
        context: Sequence[int],
        before: kv_cache.KVCache | None,
        count: int,
        *,
        rank: int,
        alpha: float,
        targets: Sequence[str],
        init: Init,
    ) -> None:
        self.model, self.before, self.count = base.model, before, count
        if base.fixed_keys:
            raise CompileError(f"nothing can be compiled for {base.name}: {base.fixed_keys}")
        self.inv_freq = rotary.inv_freq_of(base.model)
        self.student = lora_copy(self.model, rank, alpha, targets)
        tokens = torch.tensor([list(context)], device=self.model.device)
        self.embedded = self.model.get_input_embeddings()(tokens)
        self.buffer = nn.Parameter(self._initial_buffer(init).float())

    @property
    def parameters(self) -> list[Tensor]:
        """The trained tensors: the buffer and the LoRA."""
        return [self.buffer, *(p for p in self.student.parameters() if p.requires_grad)]

    def _initial_buffer(self, init: Init) -> Tensor:
        if init == "vocabulary_mean":
            weight = self.model.get_input_embeddings().get_parameter("weight")
            return weight.mean(0).expand(1, self.count, -1).clone()
        n = self.embedded.shape[1]
        if self.count > n:  # the memory was padded to a multiple of a server's page size
            spread = torch.arange(self.count, device=self.embedded.device) * n // self.count
            return torch.as_tensor(self.embedded[:, spread]).clone()
        chunks = self.embedded[0].tensor_split(self.count)
        return torch.stack([chunk.mean(0) for chunk in chunks])[None].clone()

    def read(self, meter: FlopMeter) -> kv_cache.KVCache:
        """Run ``[context][buffer]`` with the LoRA; returns the buffer's KV, re-rotated to follow ``before``.

        This is the bottleneck: nothing else of the forward pass is kept.
        """
        n, start = self.embedded.shape[1], self.before.tokens if self.before else 0
        inputs = torch.cat((self.embedded, self.buffer.to(self.embedded.dtype)), 1)
        positions = torch.arange(start, start + n + self.count, device=self.model.device)[None]
        cache = self.before.cache() if self.before else kv_cache.KVCache((), ()).cache()
        self.student.base_model(
            inputs_embeds=inputs, position_ids=positions, past_key_values=cache, use_cache=True
        )
        meter.forward(inputs.shape[1], start + n)
        return kv_cache.KVCache.of(cache).slice(start + n).shifted(-n, self.inv_freq)


def lora_copy(model: nn.Module, rank: int, alpha: float, targets: Sequence[str]) -> Any:
    """A copy of the module tree that shares every weight with ``model`` and adds a new LoRA.

    The original model is unchanged, so it runs without the LoRA. The LoRA is float32 whatever the model's
    dtype is: in bfloat16 the optimizer's small steps would be rounded away. Raises `CompileError` when no
    module has the name of a target.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type] # declared as int, used as any number
        target_modules=list(targets),
        lora_dropout=0.0,
    )
    try:
        student = inject_adapter_in_model(config, shared_copy(model))
    except ValueError as error:  # no module has such a name
        raise CompileError(f"the LoRA does not fit this model; choose other targets: {error}") from error
    for parameter in student.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return student
