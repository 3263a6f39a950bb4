"""Error-driven sampling: pixels are drawn in proportion to the recent errors around them.

Pixels that the model already shows well have small gradients; drawing more of the others learns more per ray
(Kheradmand et al., Accelerating Neural Field Training via Soft Mining, 2024). Errors are kept per run of :data:`RUN`
consecutive pixels of an image's rows, which is visited more often than each of its pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

RUN = 8  # pixels
MAX_RELATIVE_ERROR = 20.0  # to the mean


class SampleResult(NamedTuple):
    """Metrics of a sample by name, the numbers of its pixels ``[P]`` and their errors ``[P]``."""

    metrics: dict[str, Tensor]
    pixels: Tensor
    errors: Tensor


class ErrorSampling(nn.Module):
    """The recent errors of the training pixels, and draws from a pool of them according to these errors.

    Draws follow copies of the errors that are renewed from time to time only. Both are saved, so that a resumed
    training draws the same pixels.

    Args:
        pixels: number of pixels of all training views.
        share: fraction of the draws that are in proportion to the error; the others are even.

    >>> sampling = ErrorSampling(16, share=0.5)
    >>> sampling.set_pool(torch.arange(16))
    >>> sampling.record(torch.tensor([3, 12]), torch.tensor([3.0, 1.0]))
    >>> sampling.renew()
    >>> places, likelihoods = sampling.draw(2048, torch.Generator().manual_seed(0))
    >>> (places < 8).float().mean(), likelihoods.unique()
    (tensor(0.6284), tensor([0.7500, 1.2500]))
    """

    recent: Tensor
    used: Tensor

    def __init__(self, pixels: int, share: float) -> None:
        super().__init__()
        self.share = share
        for name in ("recent", "used"):  # -1: not drawn yet
            self.register_buffer(name, torch.full((-(-pixels // RUN),), -1.0))

    @torch.no_grad()
    def record(self, numbers: Tensor, errors: Tensor) -> None:
        """Record the errors ``[P]`` of pixels; those of one run are averaged."""
        runs, inverse, counts = torch.unique(numbers.long() // RUN, return_inverse=True, return_counts=True)
        sums = torch.zeros_like(counts, dtype=errors.dtype).index_add_(0, inverse, errors)
        self.recent[runs] = (sums / counts).to(self.recent)

    def set_pool(self, numbers: Tensor) -> None:
        """Draw from the pixels ``numbers`` ``[N]`` from now on, which are in ascending order."""
        runs, counts = torch.unique_consecutive(numbers // RUN, return_counts=True)
        self._runs, self._counts = runs.long(), counts
        self._starts = counts.cumsum(0) - counts
        self._set_likelihoods()

    def renew(self) -> None:
        """Draw according to the recent errors from now on."""
        self.used.copy_(self.recent)
        self._set_likelihoods()

    def _set_likelihoods(self) -> None:
        errors, counts = self.used[self._runs].double(), self._counts.double()
        is_known = errors >= 0
        mean = (errors * counts)[is_known].sum() / counts[is_known].sum()
        relative = torch.where(is_known & (mean > 0), (errors / mean).clamp_max(MAX_RELATIVE_ERROR), 1.0)
        likelihoods = self.share * relative + 1 - self.share
        self._likelihoods = likelihoods * (counts.sum() / (likelihoods * counts).sum())
        self._ends = (self._likelihoods * counts).cumsum(0)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw P pixels with replacement.

        Returns:
            Their places in the pool ``[P]``, and how likely each was, relative to even draws ``[P]``.
        """
        random = torch.rand(count, generator=generator, device=generator.device, dtype=torch.float64)
        at = random.to(self._ends.device) * self._ends[-1]
        run = torch.searchsorted(self._ends, at, right=True).clamp_max(len(self._ends) - 1)
        likelihood = self._likelihoods[run]
        from_end = ((self._ends[run] - at) / likelihood).long().clamp_min(0)  # 0 at the last pixel of the run
        last = self._counts[run] - 1
        return self._starts[run] + last - torch.minimum(from_end, last), likelihood.to(self.recent.dtype)
