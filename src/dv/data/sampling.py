"""Which views a training step sees: a pure function of seed and step, so that a run can be repeated or resumed,
on any number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from dv.data.folder import Views
from dv.geometry.camera import axis_cosines

NEIGHBOURS = 4


class Sample(NamedTuple):
    """Views of one training sample, by index."""

    source: int
    targets: tuple[int, int]


class TrainingSample(NamedTuple):
    """A source view and two target views; images uint8, poses camera-to-world float64; number counts from the start."""

    number: int
    names: list[str]
    source_image: Tensor
    source_pose: Tensor
    target_images: Tensor
    target_poses: Tensor


TrainingBatch = list[list[TrainingSample]]  # of a step: rounds in succession, of samples side by side


@dataclass(frozen=True)
class StepShape:
    """How many samples a training step has and where they are computed.

    The samples of a round start from the same grid; a round goes on from what the one before left. ``ranks`` share
    each round. Where a sample is computed changes nothing: two ranks with one sample each are one process with two.
    """

    batch_size: int = 1  # samples a round on each rank
    rounds: int = 1  # between optimiser steps
    ranks: int = 1

    @property
    def samples(self) -> int:
        """Samples of a step, on all ranks."""
        return self.batch_size * self.rounds * self.ranks

    def indices(self, step: int, rank: int) -> list[range]:
        """Samples of ``rank`` in each round of ``step``."""
        wide = self.batch_size * self.ranks
        firsts = (wide * (step * self.rounds + turn) + self.batch_size * rank for turn in range(self.rounds))
        return [range(first, first + self.batch_size) for first in firsts]


class TrainingSteps(Dataset[TrainingBatch]):
    """Item t is what ``rank`` computes in training step t.

    A sample is a target from the shuffled views, a source among its 4 nearest neighbours by cosine of optical axes,
    and one more target at random (paper, section 3.4).
    """

    def __init__(self, views: Views, steps: int, seed: int, shape: StepShape | None = None, rank: int = 0) -> None:
        self.views = views
        self.steps = steps
        self.seed = seed
        self.shape = shape or StepShape()
        self.rank = rank
        cosines = axis_cosines(views.poses, views.poses)
        cosines.fill_diagonal_(-torch.inf)  # a view is never its own neighbour
        self.neighbours = cosines.topk(min(NEIGHBOURS, len(views) - 1)).indices.tolist()

    def __len__(self) -> int:
        return self.steps

    def sample(self, index: int) -> Sample:
        """The views of a sample."""
        epoch, position = divmod(index, len(self.views))
        target = int(np.random.default_rng((self.seed, 0, epoch)).permutation(len(self.views))[position])
        rng = np.random.default_rng((self.seed, 1, index))
        return Sample(int(rng.choice(self.neighbours[target])), (target, int(rng.integers(len(self.views)))))

    def __getitem__(self, step: int) -> TrainingBatch:
        return [[self._load(index) for index in turn] for turn in self.shape.indices(step, self.rank)]

    def _load(self, index: int) -> TrainingSample:
        source, targets = self.sample(index)
        views, chosen = self.views, list(targets)
        return TrainingSample(
            index,
            [views.names[i] for i in (source, *targets)],
            views.images[source : source + 1],
            views.poses[source],
            views.images[chosen],
            views.poses[chosen],
        )


class SampleNumbers(Dataset[list[list[int]]]):
    """Item t is the numbers of the samples that ``rank`` computes in training step t, for who draws them itself."""

    def __init__(self, steps: int, shape: StepShape, rank: int = 0) -> None:
        self.steps = steps
        self.shape = shape
        self.rank = rank

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> list[list[int]]:
        return [list(turn) for turn in self.shape.indices(step, self.rank)]


class StepRange(Sampler[int]):
    """The steps below ``last`` without the first ``done``.

    Its length is that of the whole training: Lightning goes on counting where a resumed run stopped.
    """

    def __init__(self, last: int, done: int = 0) -> None:
        self.whole = range(last)
        self.done = done

    def __iter__(self) -> Iterator[int]:
        return iter(self.whole[self.done :])

    def __len__(self) -> int:
        return len(self.whole)


class ViewShare(Sampler[tuple[int, bool]]):
    """The part of ``count`` views that a rank evaluates: index, and whether it counts.

    Every rank gets equally many, since it takes all of them to reduce a score; those too many do not count.
    """

    def __init__(self, count: int, rank: int = 0, ranks: int = 1) -> None:
        self.part = [(i % count, i < count) for i in range(rank, -(-count // ranks) * ranks, ranks)]

    def __iter__(self) -> Iterator[tuple[int, bool]]:
        return iter(self.part)

    def __len__(self) -> int:
        return len(self.part)


class View(NamedTuple):
    """One view to evaluate: its name, pose ``[4, 4]`` and image uint8 ``[3, S, S]``, and whether it counts."""

    name: str
    pose: Tensor
    image: Tensor
    counts: bool


class ViewList(Dataset[View]):
    """The views of a split, one by one."""

    def __init__(self, views: Views) -> None:
        self.views = views

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, item: tuple[int, bool]) -> View:
        index, counts = item
        return View(self.views.names[index], self.views.poses[index], self.views.images[index], counts)
