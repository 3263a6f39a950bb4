"""One state for all samples of a round, in one process or many."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dv.model import DeepVoxels
from dv.ops.norm import ViewNorm


class SharedState:
    """The state that a step leaves beside the weights: the voxel grid and the running averages of the norms.

    Every sample of a round starts from the same state. Rendering its targets, it sees the grid that it has itself
    updated, so its loss and gradient are those of the paper's step with one sample; after the round the state is the
    mean of what the samples made of it. Nothing of it depends on how the samples are spread over processes.
    """

    def __init__(self, model: DeepVoxels, *others: nn.Module) -> None:
        norms = [m for module in (model, *others) for m in module.modules() if isinstance(m, ViewNorm)]
        self.averages = [average for norm in norms for average in (norm.running_mean, norm.running_var)]
        self.grid = model.grid

    def begin(self) -> None:
        """Before the first sample of a round."""
        self._before = [average.clone() for average in self.averages]
        self._sum: list[Tensor] = []
        self._count = 0

    def add(self, grid: Tensor) -> None:
        """After a sample, which left the grid ``[1, F, G, G, G]``: the next one starts where it did."""
        left = [grid.detach().to(self.grid.dtype), *self.averages]
        if self._count:
            torch._foreach_add_(self._sum, left)
        else:
            self._sum = [tensor.clone() for tensor in left]
        self._count += 1
        torch._foreach_copy_(self.averages, self._before)

    def end(self, mean_over_ranks: Callable[[Tensor], Tensor]) -> None:
        """After the last sample of a round; ``mean_over_ranks`` is given all that is shared as one vector."""
        merged = mean_over_ranks(torch.cat([tensor.flatten() for tensor in self._sum]) / self._count)
        tensors = [self.grid, *self.averages]
        parts = torch.split(merged, [tensor.numel() for tensor in tensors])
        torch._foreach_copy_(tensors, [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)])
