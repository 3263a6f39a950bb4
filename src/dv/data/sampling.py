"""Sampling of views for training and evaluation.

The views of a step are a pure function of seed and step, so that a run can be repeated or resumed, on any number of
ranks.
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
from dv.geometry.camera import Intrinsics, axis_cosines

NEIGHBOURS = 4


class Sample(NamedTuple):
    """Indices of the views of one training sample."""

    source: int
    targets: tuple[int, int]


class TrainingSample(NamedTuple):
    """A source view and two target views.

    ``number`` counts samples from the start of the training; images are uint8 ``[1 or 2, 3, S, S]``, poses
    camera-to-world float64 ``[4, 4]`` and ``[2, 4, 4]``. ``names`` are those of source and targets.
    """

    number: int
    names: list[str]
    source_image: Tensor
    source_pose: Tensor
    target_images: Tensor
    target_poses: Tensor


TrainingBatch = list[list[TrainingSample]]  # what a rank computes in a step: [round][sample of the batch]


@dataclass(frozen=True)
class StepLayout:
    """How many samples a training step has, and which rank computes which.

    All samples of a round start from the same state of the grid; each round continues with the grid that the previous
    one left. Ranks share every round. Only the total per round matters: two ranks with one sample each compute the same
    as one process with two.

    Args:
        batch_size: samples per round and rank.
        rounds: rounds per optimizer step.
        ranks: number of ranks.
    """

    batch_size: int = 1
    rounds: int = 1
    ranks: int = 1

    @property
    def samples(self) -> int:
        """Number of samples per step on all ranks."""
        return self.batch_size * self.rounds * self.ranks

    def sample_numbers(self, step: int, rank: int) -> list[range]:
        """Return the numbers of the samples that ``rank`` computes in each round of ``step``."""
        per_round = self.batch_size * self.ranks
        first = per_round * self.rounds * step + self.batch_size * rank
        starts = (first + per_round * i for i in range(self.rounds))
        return [range(start, start + self.batch_size) for start in starts]


class TrainingSteps(Dataset[TrainingBatch]):
    """Dataset of training steps: item t is what ``rank`` computes in step t.

    The first target of a sample goes through the shuffled views, the source is one of its 4 nearest neighbours by the
    cosine of the optical axes, and the second target is random (paper, section 3.4).

    Args:
        views: training views, at least two.
        steps: length of the training.
        seed: of the sampling.
        layout: of a step.
        rank: whose samples to load.
    """

    def __init__(self, views: Views, steps: int, seed: int, layout: StepLayout | None = None, rank: int = 0) -> None:
        self.views = views
        self.steps = steps
        self.seed = seed
        self.layout = layout or StepLayout()
        self.rank = rank
        cosines = axis_cosines(views.poses, views.poses)
        cosines.fill_diagonal_(-torch.inf)  # a view is never its own neighbour
        self.neighbours = cosines.topk(min(NEIGHBOURS, len(views) - 1)).indices.tolist()

    def __len__(self) -> int:
        return self.steps

    def sample(self, number: int) -> Sample:
        """Draw the views of the sample with this number."""
        epoch, position = divmod(number, len(self.views))
        target = int(np.random.default_rng((self.seed, 0, epoch)).permutation(len(self.views))[position])
        rng = np.random.default_rng((self.seed, 1, number))
        return Sample(int(rng.choice(self.neighbours[target])), (target, int(rng.integers(len(self.views)))))

    def __getitem__(self, step: int) -> TrainingBatch:
        return [[self._load(number) for number in numbers] for numbers in self.layout.sample_numbers(step, self.rank)]

    def _load(self, number: int) -> TrainingSample:
        source, targets = self.sample(number)
        views, chosen = self.views, list(targets)
        return TrainingSample(
            number,
            [views.names[i] for i in (source, *targets)],
            views.images[[source]].contiguous(),
            views.poses[source],
            views.images[chosen].contiguous(),
            views.poses[chosen],
        )


class SampleNumbers(Dataset[list[list[int]]]):
    """Dataset of training steps for models that draw rays themselves: item t are the numbers of the samples of ``rank``
    in step t, by round.
    """

    def __init__(self, steps: int, layout: StepLayout, rank: int = 0) -> None:
        self.steps = steps
        self.layout = layout
        self.rank = rank

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> list[list[int]]:
        return [list(numbers) for numbers in self.layout.sample_numbers(step, self.rank)]


class RemainingSteps(Sampler[int]):
    """Sampler of the steps from ``done`` to ``steps`` - 1.

    Its length is that of the whole training, since Lightning continues to count batches in a resumed run.
    """

    def __init__(self, steps: int, done: int = 0) -> None:
        self.all_steps = range(steps)
        self.done = done

    def __iter__(self) -> Iterator[int]:
        return iter(self.all_steps[self.done :])

    def __len__(self) -> int:
        return len(self.all_steps)


class RankViews(Sampler[tuple[int, bool]]):
    """Sampler of the share of ``count`` views that a rank evaluates: (index, whether the view counts).

    Padded so that all ranks call collectives equally often; padding does not count.
    """

    def __init__(self, count: int, rank: int = 0, ranks: int = 1) -> None:
        self.share = [(i % count, i < count) for i in range(rank, -(-count // ranks) * ranks, ranks)]

    def __iter__(self) -> Iterator[tuple[int, bool]]:
        return iter(self.share)

    def __len__(self) -> int:
        return len(self.share)


class View(NamedTuple):
    """One view to evaluate: pose ``[4, 4]``, image uint8 ``[3, H, W]``, whether its scores count, and its camera."""

    name: str
    pose: Tensor
    image: Tensor
    counts: bool
    camera: Intrinsics


class ViewDataset(Dataset[View]):
    """Dataset of the views of a split; an item is addressed as by :class:`RankViews`."""

    def __init__(self, views: Views) -> None:
        self.views = views

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, item: tuple[int, bool]) -> View:
        index, counts = item
        views = self.views
        return View(views.names[index], views.poses[index], views.image(index), counts, views.cameras[index])
