"""LightningDataModule of one object, whose images are kept in memory once, as uint8."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from dv.data.object import ObjectSource
from dv.data.sampling import (
    RankViews,
    RemainingSteps,
    SampleNumbers,
    StepLayout,
    TrainingBatch,
    TrainingSteps,
    View,
    ViewDataset,
)


class ObjectDataModule(pl.LightningDataModule):
    """Training steps and validation views of an object for each rank.

    Args:
        source: the object.
        steps: length of the training.
        seed: of the sampling.
        layout: of a step.
        validation_views: fraction (a float) or number (an int) of the validation views to use, over all ranks.
        workers: number of loader processes; 0 reads in the main process, which is fastest for images in memory.
        numbers_only: whether training items are sample numbers instead of views.
    """

    def __init__(
        self,
        source: ObjectSource,
        steps: int,
        seed: int,
        layout: StepLayout | None = None,
        validation_views: int | float = 1.0,
        workers: int = 0,
        numbers_only: bool = False,
    ) -> None:
        super().__init__()
        self.source = source
        self.steps = steps
        self.seed = seed
        self.layout = layout or StepLayout()
        self.validation_views = validation_views
        self.workers = workers
        self.numbers_only = numbers_only

    def train_dataloader(self) -> DataLoader[TrainingBatch] | DataLoader[list[list[int]]]:
        """Return a loader of the remaining steps of this rank."""
        done, rank = (self.trainer.global_step, self.trainer.global_rank) if self.trainer else (0, 0)
        steps: Any = (
            SampleNumbers(self.steps, self.layout, rank)
            if self.numbers_only
            else TrainingSteps(self.source.views("train"), self.steps, self.seed, self.layout, rank)
        )
        return DataLoader(
            steps,
            sampler=RemainingSteps(self.steps, done),
            batch_size=None,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )

    def val_dataloader(self) -> DataLoader[View]:
        """Return a loader of the validation views of this rank, in order."""
        rank = self.trainer.global_rank if self.trainer else 0
        views = self.source.views("validation")
        part = self.validation_views
        count = math.ceil(part * len(views)) if isinstance(part, float) else min(part, len(views))
        return DataLoader(ViewDataset(views), sampler=RankViews(count, rank, self.layout.ranks), batch_size=None)
