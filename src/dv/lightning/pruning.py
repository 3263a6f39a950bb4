"""Giving up a trial of a search."""

from __future__ import annotations

import logging

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback

log = logging.getLogger(__name__)


class Pruning(Callback):
    """Reports every validation to the Optuna trial of this run, and stops the training if its pruner says so.

    ``trial`` is the ``trial`` configuration: storage, study, number and pruner.
    """

    def __init__(self, trial: DictConfig) -> None:
        self.trial = trial

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Rank 0 asks, all ranks stop."""
        if trainer.state.fn != "fit":
            return
        hopeless = False
        if trainer.is_global_zero:
            import optuna
            from hydra.utils import instantiate

            study = optuna.load_study(
                study_name=self.trial.study, storage=self.trial.storage, pruner=instantiate(self.trial.pruner)
            )
            trial = optuna.trial.Trial(study, study.trials[self.trial.number]._trial_id)
            trial.report(float(trainer.callback_metrics["val/psnr"]), trainer.global_step)
            hopeless = trial.should_prune()
            if hopeless:
                trial.set_user_attr("pruned", trainer.global_step)
        if trainer.strategy.reduce_boolean_decision(hopeless, all=False):
            log.info("given up at step %d: other trials were better there", trainer.global_step)
            trainer.should_stop = True
