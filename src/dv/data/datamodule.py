"""LightningDataModule over one object, whose images lie in memory once, as uint8."""

from __future__ import annotations

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from dv.data.object import ObjectSource
from dv.data.sampling import StepRange, TrainingBatch, TrainingSteps, View, ViewList


class ObjectDataModule(pl.LightningDataModule):
    """Training steps and validation views of an object.

    Args:
        source: the object.
        steps: length of the training, in batches a rank.
        seed: of the sampling.
        workers: loader processes; 0 reads in the main process, which is the fastest for images in memory.
    """

    def __init__(self, source: ObjectSource, steps: int, seed: int, workers: int = 0) -> None:
        super().__init__()
        self.source = source
        self.steps = steps
        self.seed = seed
        self.workers = workers

    def train_dataloader(self) -> DataLoader[TrainingBatch]:
        """The steps that are still to do, on this rank."""
        done, rank, ranks = 0, 0, 1
        if self.trainer:
            done, rank, ranks = self.trainer.global_step, self.trainer.global_rank, self.trainer.world_size
        dataset = TrainingSteps(self.source.views("train"), self.steps * ranks, self.seed)
        return DataLoader(
            dataset,
            sampler=StepRange(self.steps * ranks, done, rank, ranks),
            batch_size=None,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )

    def val_dataloader(self) -> DataLoader[View]:
        """Validation views, in order."""
        return DataLoader(ViewList(self.source.views("validation")), batch_size=None)
