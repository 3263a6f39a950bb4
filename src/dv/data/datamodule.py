"""LightningDataModule over one object, whose images lie in memory once, as uint8."""

from __future__ import annotations

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from dv.data.object import ObjectSource
from dv.data.sampling import StepRange, TrainingBatch, TrainingSteps, View, ViewList


class ObjectDataModule(pl.LightningDataModule):
    """Training steps, validation and test views of an object.

    Args:
        source: the object.
        steps: length of the training, in batches over all ranks.
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
        trainer = self.trainer
        first = trainer.global_step * trainer.world_size + trainer.global_rank if trainer else 0
        stride = trainer.world_size if trainer else 1
        dataset = TrainingSteps(self.source.views("train"), self.steps * stride, self.seed)
        return DataLoader(
            dataset,
            sampler=StepRange(first, self.steps * stride, stride),
            batch_size=None,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )

    def val_dataloader(self) -> DataLoader[View]:
        """Validation views, in order."""
        return DataLoader(ViewList(self.source.views("validation")), batch_size=None)

    def test_dataloader(self) -> DataLoader[View]:
        """Test views, in order."""
        return DataLoader(ViewList(self.source.views("test")), batch_size=None)
