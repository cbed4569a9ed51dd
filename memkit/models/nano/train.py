"""Train nano from nothing: ``python -m memkit.models.nano.train --out DIR``.

Seeded, resumable (run the same command again) and interruptible: a checkpoint is written every
few hundred steps and replaced atomically. ``--workers 2`` trains on two processes that average
their gradients; the number may change between a run and its resumption.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from memkit.models.nano.samples import ANSWER_WEIGHT, COPY_WEIGHT, CURRICULUM, Batch, Sampler, Stage
from memkit.models.nano.tokenizer import CONTEXT_WINDOW, train_tokenizer


@dataclass(frozen=True)
class NanoTrainConfig:
    """Hyper-parameters of the model and its training. Raises `ValueError` for invalid values."""

    hidden: int = 192
    layers: int = 6
    heads: int = 4
    feed_forward: int = 512
    tokens: int = 28_000_000
    batch_tokens: int = 4096  # tokens in each step, including padding
    lr: float = 3e-3  # AdamW: embeddings and norms
    muon_lr: float = 2e-2  # Muon: matrices; 0 trains them with AdamW too
    logit_limit: float = 12.0  # bound on a head's attention logits (QK-clip); 0: none
    warmup_steps: int = 100
    weight_decay: float = 0.01
    checkpoint_steps: int = 200
    bf16: bool = True
    init: str = ""  # folder of an exported model to continue from, with its tokenizer
    seed: int = 0

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise ValueError(f"hidden={self.hidden} is not a multiple of heads={self.heads}")
        for name in ("tokens", "batch_tokens", "layers", "checkpoint_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def build_model(config: NanoTrainConfig, vocabulary: int) -> LlamaForCausalLM:
    """A Llama with tied embeddings, without grouped queries."""
    torch.manual_seed(config.seed)
    return LlamaForCausalLM(
        LlamaConfig(  # type: ignore[call-arg, unused-ignore] # attn_implementation is every configuration's
            vocab_size=vocabulary,
            hidden_size=config.hidden,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            intermediate_size=config.feed_forward,
            max_position_embeddings=CONTEXT_WINDOW,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=2,
            pad_token_id=0,
            attn_implementation="sdpa",
        )
    )


def build_optimizers(model: nn.Module, config: NanoTrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the rest."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    inside = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in inside]
    betas, decay = (0.9, 0.98), config.weight_decay
    if not config.muon_lr:
        return [torch.optim.AdamW(model.parameters(), lr=config.lr, betas=betas, weight_decay=decay)]
    return [
        torch.optim.Muon(matrices, lr=config.muon_lr, weight_decay=decay, adjust_lr_fn="original"),
        torch.optim.AdamW(rest, lr=config.lr, betas=betas, weight_decay=decay),
    ]


class LogitClip:
    """QK-clip: after each step, scales down the queries and keys of heads whose logits can be too large.

    Muon's updates have full rank and let logits grow into the hundreds; attention then saturates and a head
    stops learning. ``|q| |k| / sqrt(head size)`` bounds the logits at any position (Kimi K2, 2025, measures
    the logits themselves).
    """

    def __init__(self, model: LlamaForCausalLM, config: NanoTrainConfig) -> None:
        self.limit, self.heads = config.logit_limit, config.heads
        self.size = config.hidden // config.heads
        self.pairs = [(layer.self_attn.q_proj, layer.self_attn.k_proj) for layer in model.model.layers]
        self.norms = torch.zeros(2, len(self.pairs), config.heads)
        for number, pair in enumerate(self.pairs):
            for which, projection in enumerate(pair):
                projection.register_forward_hook(self._record(which, number))

    def _record(self, which: int, number: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            heads = output.detach().float().view(-1, self.heads, self.size)
            self.norms[which, number] = heads.norm(dim=-1).amax(0)

        return hook

    @torch.no_grad()
    def apply(self, together: bool) -> None:
        """Scale by the norms of the last forward pass, over all workers if ``together``."""
        bounds = self.norms[0] * self.norms[1] / math.sqrt(self.size)
        if together:
            dist.all_reduce(bounds, op=dist.ReduceOp.MAX)
        scales = (self.limit / bounds.clamp(min=1e-6)).clamp(max=1.0).sqrt()
        for scale, pair in zip(scales, self.pairs, strict=True):
            for projection in pair:
                projection.weight.mul_(scale.repeat_interleave(self.size)[:, None])


def loss_of(model: LlamaForCausalLM, batch: Batch, bf16: bool) -> tuple[torch.Tensor, dict[str, float]]:
    """The weighted cross-entropy, and its means over answers and over copied lists for the log."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        hidden = model.model(
            input_ids=batch.ids,
            attention_mask=batch.mask.bfloat16() if bf16 else batch.mask,
            position_ids=batch.position,
            use_cache=False,
        ).last_hidden_state
        # Position i predicts i + 1. A branch's first token follows the root, not i: weight 0.
        weights = batch.weights[:, 1:].reshape(-1)
        chosen = weights.nonzero().squeeze(1)
        logits = model.lm_head(hidden[:, :-1].reshape(-1, hidden.shape[-1])[chosen])
    losses = nn.functional.cross_entropy(
        logits.float(), batch.ids[:, 1:].reshape(-1)[chosen], reduction="none"
    )
    weights = weights[chosen]
    kinds = {"answer_loss": ANSWER_WEIGHT, "copy_loss": COPY_WEIGHT}
    means = {name: float(losses.detach()[weights == weight].mean()) for name, weight in kinds.items()}
    return (losses * weights).sum() / weights.sum(), means


POOL = 8  # batches drawn at once, so that they can be sorted by length


def _tokenizer(out: Path, init: str = "") -> PreTrainedTokenizerFast:
    """The run's tokenizer: trained once, then loaded by every worker and by resumed runs."""
    folder = out / "tokenizer"
    if not folder.exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(init) if init else train_tokenizer()
        tokenizer.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise TypeError(f"{folder} holds no fast tokenizer")
    return tokenizer


@dataclass
class Progress:
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


class Trainer:
    """The training loop; its whole state is one checkpoint file."""

    def __init__(self, config: NanoTrainConfig, out: Path, rank: int = 0, workers: int = 1) -> None:
        self.config, self.out, self.rank, self.workers = config, out, rank, workers
        out.mkdir(parents=True, exist_ok=True)
        self.tokenizer = _tokenizer(out, config.init)
        self.model = build_model(config, len(self.tokenizer))
        self.optimizers = build_optimizers(self.model, config)
        self.base_lr = [o.param_groups[0]["lr"] for o in self.optimizers]
        self.clip = LogitClip(self.model, config) if config.logit_limit else None
        self.progress = Progress()
        self._saved = 0
        self._resume()

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoint.pt"

    def _resume(self) -> None:
        if not self.checkpoint.exists():
            if self.config.init:
                self._begin_from(Path(self.config.init))
            return
        state: dict[str, Any] = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.progress = Progress(**state["progress"])
        self._saved = self.progress.step // self.config.checkpoint_steps
        if self.rank == 0:
            print(f"resumed at step {self.progress.step}", flush=True)

    def _begin_from(self, folder: Path) -> None:
        """Start from the weights of an earlier model, at its point of the curriculum."""
        trained = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model.load_state_dict(trained.state_dict())
        self.progress = Progress(**json.loads((folder / "training.json").read_text())["trained"])
        self._saved = self.progress.step // self.config.checkpoint_steps

    def save(self) -> None:
        """Replace the checkpoint atomically."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "progress": asdict(self.progress),
        }
        temporary = self.checkpoint.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.checkpoint)

    def _schedule(self) -> None:
        done = min(self.progress.tokens / self.config.tokens, 1.0)
        warm = min((self.progress.step + 1) / self.config.warmup_steps, 1.0)
        # Constant, then linear to zero over the last third.
        scale = warm * min(1.0, (1.0 - done) / 0.35)
        for optimizer, lr in zip(self.optimizers, self.base_lr, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = max(scale, 1e-3) * lr

    def stage(self) -> Stage:
        done = self.progress.tokens / self.config.tokens
        return [s for s in CURRICULUM if s.start <= done][-1]

    def run(self) -> None:
        """Train until the token budget is spent, then write the model in bf16."""
        config, progress = self.config, self.progress
        recent: list[dict[str, float]] = []
        while progress.tokens < config.tokens:
            # A sampler for each pool, seeded by the step, so that a resumed run sees the same samples.
            seed = config.seed * 1_000_003 + progress.step
            sampler = Sampler(self.tokenizer, seed * 64 + self.rank)
            stage = self.stage()
            tokens = int(config.batch_tokens * stage.batch)
            for batch in sampler.batches(stage, tokens, random.Random(seed), POOL):
                recent.append(self._step(batch))
                if progress.step % 25 == 0 and self.rank == 0:
                    self._report(recent)
                    recent = []
            if progress.step // config.checkpoint_steps > self._saved and self.rank == 0:
                self._saved = progress.step // config.checkpoint_steps
                self.save()
        if self.rank == 0:
            self.save()
            self.export()

    def _step(self, batch: Batch) -> dict[str, float]:
        """One optimizer step; returns the mean losses by kind of token."""
        started = time.perf_counter()
        self._schedule()
        loss, means = loss_of(self.model, batch, self.config.bf16)
        loss.backward()
        tokens = self._average_gradients(batch.tokens)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.clip:
            self.clip.apply(together=self.workers > 1)
        self.progress.step += 1
        self.progress.tokens += tokens
        self.progress.seconds += time.perf_counter() - started
        return means

    def _average_gradients(self, tokens: int) -> int:
        """Average the gradients over the workers; returns their total number of tokens."""
        if self.workers == 1:
            return tokens
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients] + [torch.tensor([float(tokens)])])
        dist.all_reduce(flat)
        sizes = [g.numel() for g in gradients]
        for gradient, part in zip(gradients, flat[:-1].split(sizes), strict=True):
            gradient.copy_(part.view_as(gradient) / self.workers)
        return int(flat[-1])

    def _report(self, recent: list[dict[str, float]]) -> None:
        p = self.progress
        losses = dict[str, float]()
        for name in recent[0] if recent else ():
            seen = [means[name] for means in recent if not math.isnan(means[name])]  # nan: none of that kind
            losses[name] = round(sum(seen) / len(seen), 4) if seen else math.nan
        rate = p.tokens / max(p.seconds, 1e-9)
        eta = (self.config.tokens - p.tokens) / rate / 60
        row = {"step": p.step, "tokens": p.tokens, **losses, "tokens_per_s": round(rate)}
        with (self.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")
        shown = "  ".join(f"{name.replace('_', ' ')} {loss:.3f}" for name, loss in losses.items())
        print(
            f"step {p.step:6d}  {p.tokens / 1e6:6.2f} M tokens  {shown}  {rate:.0f} tokens/s  "
            f"ETA {eta:.0f} min",
            flush=True,
        )

    def export(self) -> None:
        """Write ``model.safetensors`` (bf16), the configuration and the tokenizer."""
        model = build_model(self.config, len(self.tokenizer))
        model.load_state_dict(self.model.state_dict())
        model.bfloat16().save_pretrained(self.out / "model")
        self.tokenizer.save_pretrained(self.out / "model")
        settings = {**asdict(self.config), "init": Path(self.config.init).name}  # no paths of this machine
        record = {**settings, "workers": self.workers, "trained": asdict(self.progress)}
        (self.out / "model" / "training.json").write_text(json.dumps(record, indent=1) + "\n")


def _worker(rank: int, config: NanoTrainConfig, out: Path, workers: int) -> None:
    torch.set_num_threads(1)
    # All workers run on one machine, so a shared file is enough for the rendezvous.
    meeting = (out / f"meeting-{os.getppid()}").resolve()
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=workers)
    Trainer(config, out, rank, workers).run()
    dist.destroy_process_group()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and the model")
    parser.add_argument("--workers", type=int, default=1, help="processes that train together")
    defaults = NanoTrainConfig()
    for name, value in asdict(defaults).items():
        kind = (lambda s: s.lower() in ("1", "true", "yes")) if isinstance(value, bool) else type(value)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=value)
    options = vars(parser.parse_args(argv))
    out, workers = options.pop("out"), options.pop("workers")
    config = NanoTrainConfig(**options)
    if workers == 1:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        Trainer(config, out).run()
    else:
        _tokenizer(out, config.init)  # before the workers start
        spawn(_worker, (config, out, workers), nprocs=workers)


if __name__ == "__main__":
    main()
