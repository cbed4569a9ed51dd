"""``memkit train-compressor``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memkit.cli.options import Json, Model, Options, compiler_options, quiet_libraries
from memkit.cli.output import Output
from memkit.cli.progress import compilation
from memkit.errors import ConfigError

if TYPE_CHECKING:
    from memkit.compilers.meanpool.curriculum import TrainedStage

# Of the compressor itself; the rest are the stage's. `memkit.compilers.meanpool.config` says what they mean.
_SHAPE = "pooling wrappers decoder full_every rank alpha dropout targets embeddings"


def train_compressor(
    stage: Annotated[str, typer.Option(metavar="S", help="cpt1, cpt2, sft or rl, in this order.")],
    data: Annotated[
        list[str], typer.Option(metavar="FILE", help="JSONL or plain text, or generated; repeatable.")
    ],
    ratio: Annotated[int, typer.Option(min=1, metavar="C", help="Tokens per memory embedding.")] = 16,
    preset: Annotated[
        str | None,
        typer.Option(metavar="P", help="paper, or nano for the model nano.", show_default=False),
    ] = None,
    start: Annotated[
        str,
        typer.Option(
            metavar="ID", help="Checkpoint to start from. Default: the newest that fits.", show_default=False
        ),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of checkpoints.", show_default=False),
    ] = None,
    texts: Annotated[int, typer.Option(min=1, metavar="N", help="Held-out texts to evaluate on.")] = 24,
    plot: Annotated[
        Path | None, typer.Option(metavar="SVG", help="Also draw the loss curves.", show_default=False)
    ] = None,
    peft: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also export a LoRA decoder for PEFT.", show_default=False),
    ] = None,
    option: Options = None,
    model: Model = "nano",
    json: Json = False,
) -> None:
    """Train the mean-pool compressor for a model, stage by stage.

    The same command resumes an interrupted stage. On several GPUs:
    accelerate launch --num_processes N -m memkit train-compressor ...
    """
    output = Output(json)
    quiet_libraries()
    from memkit.compilers.base import silent
    from memkit.compilers.meanpool import curriculum
    from memkit.compilers.meanpool.config import PRESETS
    from memkit.compilers.meanpool.distributed import ProcessGroup
    from memkit.models.loading import load

    options = compiler_options(option)
    shape = {k: options.pop(k) for k in _SHAPE.split() if k in options and (k != "rank" or stage != "rl")}
    chosen = preset or (model if model in PRESETS else "paper")
    # The plan checks the stage's name.
    plan = curriculum.Plan(stage, tuple(data), chosen, ratio, options, shape, start, out, texts)  # type: ignore[arg-type]
    if plot is not None and not plot.resolve().parent.is_dir():
        raise ConfigError(f"cannot write {plot}: its folder does not exist")
    team = ProcessGroup.of_environment()
    base = load(model)
    with compilation(output) as report:
        finished = curriculum.run(plan, base, report if team.leads else silent, team)
    if not team.leads:
        return
    _written(finished, plot, peft)
    output.result(_plain(finished), lambda: _show(output, finished))


def _written(finished: TrainedStage, plot: Path | None, peft: Path | None) -> None:
    """Draw the loss curves and export the decoder for PEFT, if requested."""
    if plot is not None:
        from memkit.evals.meanpool_study import curves

        about = finished.checkpoint.about
        title = f"{about['model']}, stage {about['stage']}"
        plot.write_text(curves(finished.entry["curve"], title), encoding="utf-8")
    if peft is not None:
        from memkit.engine.transformers.decoder_checkpoint import export_decoder

        export_decoder(finished.checkpoint, peft)


def _plain(finished: TrainedStage) -> dict[str, Any]:
    entry = {key: value for key, value in finished.entry.items() if key != "curve"}
    return {"checkpoint": finished.checkpoint.id, "folder": str(finished.checkpoint.folder), **entry}


def _show(output: Output, finished: TrainedStage) -> None:
    evaluation = finished.entry["evaluation"]
    output.say(f"checkpoint {finished.checkpoint.label} in {finished.checkpoint.folder}")
    output.say(f"{finished.entry['steps']} steps, best at {finished.entry['best_step']}")
    output.say(f"nominal {evaluation['nominal_ratio']:g}x, effective {evaluation['effective_ratio']:g}x")
    output.say(f"reconstruction: ROUGE-1 F1 {evaluation['reconstruction']['rouge1']:.3f}")
    if qa := evaluation.get("qa"):
        kept = "-" if qa["retention"] is None else f"{qa['retention']:.3f}"
        output.say(
            f"questions: {qa['contains']:.3f} of {qa['full']:.3f} with the full context, retention {kept}"
        )
