"""``train.py``: train a model on one object."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra

from dv.config.render import EvaluateConfig
from dv.config.train import TrainConfig
from dv.errors import UserError
from dv.runtime.devices import count_gpus, supported_precision
from dv.runtime.launch import run_on_ranks
from dv.tasks.command import in_sweep, run, typed
from dv.tasks.record import recording_failure
from dv.tasks.resume import changed_keys, checkpoint_to_resume, finished_psnr, locked_run

log = logging.getLogger(__name__)
RANK_TASK = "dv.tasks.train_rank:train_on_rank"


def train(config: TrainConfig) -> float:
    """Train, validate and save to the run's folder, on as many processes as configured.

    With ``resume=auto`` a finished run is not repeated.

    Returns:
        The best validation PSNR, dB.
    """
    if config.trial and not in_sweep():
        raise UserError("sweep=optuna is a search over many runs; start it with python train.py -m …")
    gpus = count_gpus(config.trainer.gpus)
    precision: Any = supported_precision(config.trainer.precision, gpus)
    trainer = replace(config.trainer, gpus=gpus, precision=precision)
    config = replace(config, trainer=trainer)
    run_dir = Path(config.output_dir)
    with locked_run(run_dir) as lock:
        best = finished_psnr(run_dir, config) if config.resume == "auto" else None
        if best is None:
            if config.resume == "auto" and in_sweep() and (changed := changed_keys(run_dir, config, {"result"})):
                raise UserError(
                    f"{run_dir} holds a run of another sweep, with {', '.join(changed)}; use another hydra.sweep.dir"
                )
            resume = checkpoint_to_resume(config.resume, run_dir)
            config = replace(config, resume=str(resume.path) if resume else None)
            with recording_failure(run_dir):
                best = float(run_on_ranks(RANK_TASK, config, trainer.processes_here, trainer.nodes, (lock,)))
        else:
            log.info("%s is finished (best validation PSNR %.2f dB)", run_dir, best)
        if config.evaluate and _evaluated_split(run_dir) != config.evaluate:
            _evaluate(config, run_dir)
    return best


def _evaluated_split(run_dir: Path) -> str | None:
    path = run_dir / "metrics.json"
    return json.loads(path.read_text()).get("split") if path.is_file() else None


def _evaluate(config: TrainConfig, run_dir: Path) -> None:
    """Score the best checkpoint as ``evaluate.py`` does by default."""
    # here, since a process that supervises ranks starts them seconds sooner without Lightning
    from dv.tasks.evaluate import evaluate
    from dv.tasks.wandb_results import log_test_scores

    defaults: EvaluateConfig = typed("evaluate", hydra.compose("evaluate"))
    t = config.trainer
    assert config.evaluate
    metrics = evaluate(
        replace(
            defaults,
            ckpt=str(run_dir / "checkpoints" / "best.ckpt"),
            split=config.evaluate,
            trainer=replace(defaults.trainer, gpus=t.gpus, processes=t.processes, nodes=t.nodes),
        )
    )
    if config.evaluate == "test":
        log_test_scores(config, run_dir, metrics["mean"])


if __name__ == "__main__":
    run("train")
