"""Latent Context Compilation: a disposable LoRA writes a context into K buffer tokens.

The context and the buffer are read by the model *with* a LoRA; every training query is answered
by the frozen model *without* it, from the buffer's keys and values alone. After training the LoRA
is thrown away: the artifact is the buffer's KV.

References
    Latent Context Compilation (2026), §3.2 bottleneck, §3.3 disposable LoRA and gradient
    isolation, §3.4 objectives, Appendix A and B hyper-parameters and prompts.

Departures, each a config field
    - ``self_study`` adds questions that the frozen model writes and answers about the context; the
      paper's objective is data-free. It is reported apart (``objective`` in the manifest).
    - ``kv_steps`` refines the extracted KV directly after the LoRA phase.
    - The ``fast`` preset replaces the paper's 22,500 steps at 2e-5 by few steps at a high rate.

Requirements
    A causal model with rotary positions (Llama, Qwen2, Mistral ...).

Example
    >>> LCC({"ratio": 8}).compile(document, base, tenant="mira")
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from memkit.artifact import Artifact, Manifest, Provenance
from memkit.compilers.arithmetic import FlopMeter
from memkit.compilers.base import Compiled, Progress, configure, silent
from memkit.compilers.queries import queries_for
from memkit.compilers.teacher import Example, Target, Teacher, kl
from memkit.compilers.training import History, Schedule, cycle, minimise
from memkit.document import Document
from memkit.engine import kv
from memkit.errors import CompileError
from memkit.models.loading import LoadedModel


@dataclass(frozen=True)
class LCCConfig:
    """Hyper-parameters; the defaults are the ``fast`` recipe, ``PRESETS["paper"]`` is the paper's."""

    ratio: float = 16.0  # context tokens per buffer token
    rank: int = 8  # of the LoRA
    alpha: float = 16.0  # scale of the LoRA
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    init: Literal["chunk_mean", "vocabulary_mean"] = "chunk_mean"
    steps: int = 150  # optimizer steps of the LoRA phase
    lr: float = 5e-3
    warmup: int = 10  # steps
    kv_steps: int = 100  # optimizer steps of the direct phase; 0 leaves it out
    kv_lr: float = 1e-2
    self_study: int = 64  # questions written by the model; 0 is the paper's data-free objective
    self_study_batch: int = 16  # questions a step
    agnostic: int = 48  # context-agnostic queries
    agnostic_batch: int = 4  # queries a step
    reconstruction_window: int = 256  # tokens a step; 0 leaves reconstruction out
    reconstruction_weight: float = 0.3
    answer_tokens: int = 32  # longest answer of the teacher, tokens
    top_k: int = 256  # of the teacher's distribution; the rest is one event
    patience: int = 4  # held-out measurements (every 25 steps) without a new best
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.ratio >= 1:
            raise ValueError(f"ratio must be at least 1, got {self.ratio}")
        for name in ("rank", "steps", "answer_tokens", "patience", "top_k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("kv_steps", "self_study", "agnostic", "reconstruction_window", "warmup"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.init not in ("chunk_mean", "vocabulary_mean"):
            raise ValueError(f"init must be chunk_mean or vocabulary_mean, got {self.init!r}")
        if not (self.self_study or self.agnostic or self.reconstruction_window):
            raise ValueError("no objective is left: self_study, agnostic and reconstruction_window are 0")

    @property
    def objective(self) -> str:
        return "self-study" if self.self_study else "pure"


_PURE: dict[str, Any] = {"self_study": 0, "reconstruction_weight": 1.0}
PRESETS: dict[str, dict[str, Any]] = {
    "fast": {},
    "pure": _PURE,  # the paper's objective with the fast schedule
    "paper": {  # Appendix A: 45 epochs x 4,000 samples / 8, AdamW 2e-5, linear decay
        **_PURE,
        "init": "vocabulary_mean",
        "steps": 22_500,
        "lr": 2e-5,
        "warmup": 0,
        "kv_steps": 0,
        "agnostic": 2000,
        "agnostic_batch": 4,
        "answer_tokens": 128,
        "patience": 10_000,
    },
}


class LCC:
    """The LCC compiler. ``options`` are fields of `LCCConfig`, and ``preset``."""

    name = "lcc"
    version = "1"

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self.config = configure(LCCConfig, PRESETS, options)

    def compile(
        self, document: Document, base: LoadedModel, *, tenant: str, progress: Progress = silent
    ) -> Compiled:
        """See `memkit.compilers.base.Compiler.compile`."""
        started, config = time.perf_counter(), self.config
        context = list(base.tokenizer.encode(document.text, add_special_tokens=False))
        count = buffer_tokens(len(context), config.ratio)
        _check_window(base, len(context), count)
        teacher = Teacher(base, context)
        task = _Task(config, teacher, count)
        history = History()
        memory = task.train(progress, history)
        manifest = Manifest(
            kind="kv",
            compiler=self.name,
            compiler_version=self.version,
            config={**asdict(config), "targets": list(config.targets), "objective": config.objective},
            seed=config.seed,
            fingerprint=base.fingerprint,
            tokens=count,
            tenant=tenant,
            sources=(Provenance(document.digest, 0, len(document.text)),),
            metrics={"steps": history.steps, "held_out_kl": round(history.best, 5), "context_tokens": len(context)},
        )
        return Compiled(
            encode(manifest, memory),
            count,
            time.perf_counter() - started,
            task.meter.total,
            history.steps,
            tuple(history.curve),
        )


def buffer_tokens(context_tokens: int, ratio: float) -> int:
    """K = ceil(n / ratio)."""
    return math.ceil(context_tokens / ratio)


def encode(manifest: Manifest, memory: kv.KV) -> bytes:
    """An artifact with ``keys`` and ``values`` ``[layer, kv_head, token, head_dim]``."""
    axes = ("layer", "kv_head", "token", "head_dim")
    stacked = {
        "keys": (torch.cat(memory.keys).detach().cpu().contiguous(), axes),
        "values": (torch.cat(memory.values).detach().cpu().contiguous(), axes),
    }
    return Artifact.encode(manifest, stacked)


def _check_window(base: LoadedModel, context: int, buffer: int) -> None:
    needed = len(base.chat.header) + 2 * context + buffer + 64
    if needed > base.window:
        room = (base.window - len(base.chat.header) - 64) // 2
        raise CompileError(
            f"the document has {context} tokens, too many to compile at once: {base.name} reads {base.window} "
            f"and repeats what it reads, so about {room} fit. It stays answerable from its text; "
            "split it into parts to compile it"
        )


class _Task:
    """One compilation: the data, the buffer, the LoRA copy of the model, the two phases."""

    def __init__(self, config: LCCConfig, teacher: Teacher, count: int) -> None:
        self.config, self.teacher, self.count = config, teacher, count
        self.model, self.header = teacher.base.model, teacher.header
        self.meter = FlopMeter(self.model)
        self.start = self.header.tokens if self.header else 0
        self.inv_freq = kv.inv_freq_of(self.model)
        self.random = torch.Generator().manual_seed(config.seed)
        self._collect()
        torch.manual_seed(config.seed)
        self.student = lora_copy(self.model, config.rank, config.alpha, config.targets)
        self.embedded = self.model.get_input_embeddings()(
            torch.tensor([list(teacher.context)], device=self.model.device)
        )
        self.buffer = nn.Parameter(self._initial_buffer())

    # -- data -----------------------------------------------------------------------------------
    def _collect(self) -> None:
        """Everything the teacher says, once: examples and its distributions, by kind."""
        config, teacher = self.config, self.teacher
        study = teacher.self_study(config.self_study, config.seed, config.answer_tokens) if config.self_study else []
        queries = list(queries_for(teacher.base))[: config.agnostic]
        agnostic = teacher.agnostic(queries, config.answer_tokens)
        held = max(1, len(study) // 8) if len(study) > 1 else 0
        self.held_out = self._with_targets(study[:held] or agnostic[: max(1, len(agnostic) // 8)])
        self.study = self._with_targets(study[held:])
        self.agnostic = self._with_targets(agnostic if held else agnostic[len(self.held_out) :])
        self.windows = self._with_targets(list(self._reconstruction()))

    def _reconstruction(self) -> Iterator[Example]:
        size = self.config.reconstruction_window
        if size:
            for start in range(0, len(self.teacher.context), size):
                yield self.teacher.reconstruction(start, size)

    def _with_targets(self, examples: Sequence[Example]) -> list[tuple[Example, Target]]:
        targets = self.teacher.targets(examples, self.config.top_k)
        for example in examples:
            self.meter.forward(len(example.query) + len(example.answer), len(self.teacher.context))
        return list(zip(examples, targets, strict=True))

    # -- the buffer -----------------------------------------------------------------------------
    def _initial_buffer(self) -> Tensor:
        """Input embeddings of the buffer, ``[1, K, hidden]``."""
        if self.config.init == "vocabulary_mean":
            weight = self.model.get_input_embeddings().get_parameter("weight")
            return weight.mean(0).expand(1, self.count, -1).clone()
        chunks = self.embedded[0].tensor_split(self.count)
        return torch.stack([chunk.mean(0) for chunk in chunks])[None].clone()

    def read(self) -> kv.KV:
        """Read ``[context][buffer]`` with the LoRA; returns the buffer's KV, moved behind the header.

        This is the bottleneck: nothing else of the pass survives (§3.2, §3.3).
        """
        n = len(self.teacher.context)
        inputs = torch.cat((self.embedded, self.buffer), 1)
        positions = torch.arange(self.start, self.start + n + self.count, device=self.model.device)[None]
        cache = self.header.cache() if self.header else kv.KV((), ()).cache()
        self.student.base_model(
            inputs_embeds=inputs, position_ids=positions, past_key_values=cache, use_cache=True
        )
        self.meter.forward(inputs.shape[1], n)
        return kv.KV.of(cache).slice(self.start + n).shifted(-n, self.inv_freq)

    # -- losses ---------------------------------------------------------------------------------
    def divergence(self, memory: kv.KV, pairs: Sequence[tuple[Example, Target]]) -> Tensor:
        """Mean KL(full context ‖ artifact) in nats per answer token (eq. 2 to 4)."""
        prefix = self.header.join(memory) if self.header else memory
        batch = kv.AnswerBatch.of(
            [(e.query, e.answer) for e, _ in pairs], prefix.tokens, self.model.device
        )
        self.meter.forward(batch.packed.ids.numel(), prefix.tokens)
        logits = kv.answer_logits(self.model, prefix, batch)
        target = Target(
            torch.cat([t.ids for _, t in pairs]),
            torch.cat([t.logprobs for _, t in pairs]),
            torch.cat([t.rest for _, t in pairs]),
        )
        return kl(target, logits).mean()

    def _losses(self, memory_of: Any) -> Any:
        """The loss of one step, as a function of the step number; ``memory_of()`` is the artifact."""
        config = self.config
        parts = [
            (self.study, cycle(len(self.study), config.self_study_batch, self.random), 1.0),
            (self.agnostic, cycle(len(self.agnostic), config.agnostic_batch, self.random), 1.0),
            (self.windows, cycle(len(self.windows), 1, self.random), config.reconstruction_weight),
        ]

        def loss(step: int) -> Tensor:
            before = self.meter.total
            memory, total = memory_of(), torch.zeros((), device=self.model.device)
            for pairs, draws, weight in parts:
                if pairs:
                    total = total + weight * self.divergence(memory, [pairs[i] for i in next(draws)])
            self.meter.total += self.meter.total - before  # backward: as much again, for activations
            return total

        return loss

    def _held_out(self, memory_of: Any) -> Any:
        @torch.no_grad()
        def measure() -> float:
            memory = memory_of()
            return float(self.divergence(memory, self.held_out))

        return measure if self.held_out else None

    # -- the two phases -------------------------------------------------------------------------
    def train(self, progress: Progress, history: History) -> kv.KV:
        """LoRA phase, then direct phase; returns the artifact's KV, detached."""
        config = self.config
        parameters = [self.buffer, *(p for p in self.student.parameters() if p.requires_grad)]
        schedule = Schedule(config.steps, config.lr, config.warmup, patience=config.patience)
        minimise("lora", parameters, self._losses(self.read), self._held_out(self.read), schedule, progress, history)
        with torch.no_grad():
            memory = self.read()  # the LoRA is on here, and never again
        if not config.kv_steps:
            return memory
        free = [nn.Parameter(t.clone()) for t in (*memory.keys, *memory.values)]
        layers = len(memory.keys)

        def direct() -> kv.KV:
            return kv.KV(tuple(free[:layers]), tuple(free[layers:]))

        schedule = Schedule(config.kv_steps, config.kv_lr, config.warmup, patience=config.patience)
        minimise("kv", free, self._losses(direct), self._held_out(direct), schedule, progress, history)
        return kv.KV(tuple(t.detach() for t in free[:layers]), tuple(t.detach() for t in free[layers:]))


def lora_copy(model: nn.Module, rank: int, alpha: float, targets: Sequence[str]) -> Any:
    """A copy of the module tree that shares every weight with ``model`` and adds a fresh LoRA.

    The original never sees the LoRA, so it can answer other requests meanwhile, and reading a
    query through it *is* reading with the LoRA off.
    """
    from peft import LoraConfig, inject_adapter_in_model

    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    clone = copy.deepcopy(model, shared)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type] # declared as int, used as any number
        target_modules=list(targets),
        lora_dropout=0.0,
    )
    return inject_adapter_in_model(config, clone)
