"""Which views a training step sees: a pure function of seed and step, so that a run can be repeated or resumed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from dv.data.folder import Views
from dv.geometry.camera import axis_cosines

NEIGHBOURS = 4


class Step(NamedTuple):
    """Views of one training step, by index."""

    source: int
    targets: tuple[int, int]


class TrainingBatch(NamedTuple):
    """One training step: a source view and two target views; images uint8, poses camera-to-world float64."""

    step: int
    names: list[str]
    source_image: Tensor
    source_pose: Tensor
    target_images: Tensor
    target_poses: Tensor


class TrainingSteps(Dataset[TrainingBatch]):
    """Item t is training step t: a target from the shuffled views, a source among its 4 nearest neighbours by
    cosine of optical axes, and one more target at random (paper, section 3.4).
    """

    def __init__(self, views: Views, steps: int, seed: int) -> None:
        self.views = views
        self.steps = steps
        self.seed = seed
        cosines = axis_cosines(views.poses, views.poses)
        cosines.fill_diagonal_(-torch.inf)  # a view is never its own neighbour
        self.neighbours = cosines.topk(min(NEIGHBOURS, len(views) - 1)).indices.tolist()

    def __len__(self) -> int:
        return self.steps

    def sample(self, step: int) -> Step:
        """The views of a step."""
        epoch, position = divmod(step, len(self.views))
        target = int(np.random.default_rng((self.seed, 0, epoch)).permutation(len(self.views))[position])
        rng = np.random.default_rng((self.seed, 1, step))
        return Step(int(rng.choice(self.neighbours[target])), (target, int(rng.integers(len(self.views)))))

    def __getitem__(self, step: int) -> TrainingBatch:
        source, targets = self.sample(step)
        views, chosen = self.views, list(targets)
        return TrainingBatch(
            step,
            [views.names[i] for i in (source, *targets)],
            views.images[source : source + 1],
            views.poses[source],
            views.images[chosen],
            views.poses[chosen],
        )


class StepRange(Sampler[int]):
    """The steps of rank r of N, ``r, r + N, …`` below ``last``, without the first ``done`` of them.

    Its length is that of the whole training: Lightning goes on counting where a resumed run stopped.
    """

    def __init__(self, last: int, done: int = 0, rank: int = 0, ranks: int = 1) -> None:
        self.whole = range(rank, last, ranks)
        self.done = done

    def __iter__(self) -> Iterator[int]:
        return iter(self.whole[self.done :])

    def __len__(self) -> int:
        return len(self.whole)


class View(NamedTuple):
    """One view to evaluate: its name, pose ``[4, 4]`` and image uint8 ``[3, S, S]``."""

    name: str
    pose: Tensor
    image: Tensor


class ViewList(Dataset[View]):
    """The views of a split, one by one."""

    def __init__(self, views: Views) -> None:
        self.views = views

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int) -> View:
        return View(self.views.names[index], self.views.poses[index], self.views.images[index])
