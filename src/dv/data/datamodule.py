"""LightningDataModule over one object, whose images lie in memory once, as uint8."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from dv.data.object import ObjectSource
from dv.data.sampling import (
    SampleNumbers,
    StepRange,
    StepShape,
    TrainingBatch,
    TrainingSteps,
    View,
    ViewList,
    ViewShare,
)


class ObjectDataModule(pl.LightningDataModule):
    """Training steps and validation views of an object, each rank's part of them.

    Args:
        source: the object.
        steps: length of the training.
        seed: of the sampling.
        shape: of a step.
        validation_views: part (a float) or number of the validation views, over all ranks.
        workers: loader processes; 0 reads in the main process, which is the fastest for images in memory.
        numbers_only: give the numbers of the samples instead of their views.
    """

    def __init__(
        self,
        source: ObjectSource,
        steps: int,
        seed: int,
        shape: StepShape | None = None,
        validation_views: int | float = 1.0,
        workers: int = 0,
        numbers_only: bool = False,
    ) -> None:
        super().__init__()
        self.source = source
        self.steps = steps
        self.seed = seed
        self.shape = shape or StepShape()
        self.validation_views = validation_views
        self.workers = workers
        self.numbers_only = numbers_only

    def train_dataloader(self) -> DataLoader[TrainingBatch] | DataLoader[list[list[int]]]:
        """The steps that are still to do, on this rank."""
        done, rank = (self.trainer.global_step, self.trainer.global_rank) if self.trainer else (0, 0)
        steps: Any = (
            SampleNumbers(self.steps, self.shape, rank)
            if self.numbers_only
            else TrainingSteps(self.source.views("train"), self.steps, self.seed, self.shape, rank)
        )
        return DataLoader(
            steps,
            sampler=StepRange(self.steps, done),
            batch_size=None,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )

    def val_dataloader(self) -> DataLoader[View]:
        """Validation views, in order, those of this rank."""
        rank = self.trainer.global_rank if self.trainer else 0
        views = self.source.views("validation")
        part = self.validation_views
        count = math.ceil(part * len(views)) if isinstance(part, float) else min(part, len(views))
        return DataLoader(ViewList(views), sampler=ViewShare(count, rank, self.shape.ranks), batch_size=None)
