"""Merging the buffers that the samples of a round change, in one process or many."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dv.model import DeepVoxels
from dv.ops.norm import ViewNorm


class SharedState:
    """The buffers that a step changes: the voxel grid and the running averages of the norms.

    All samples of a round start from the same state. A sample renders its targets from the grid that it has updated
    itself, so its loss and gradient are those of the paper's step with one sample. After the round the state becomes
    the mean of the states that the samples left, which does not depend on how samples are spread over processes.

    Args:
        model: the model with the voxel grid.
        others: further networks with norms.
    """

    def __init__(self, model: DeepVoxels, *others: nn.Module) -> None:
        norms = [m for module in (model, *others) for m in module.modules() if isinstance(m, ViewNorm)]
        self.averages = [average for norm in norms for average in (norm.running_mean, norm.running_var)]
        self.grid = model.grid

    def begin(self) -> None:
        """Remember the state before the first sample of a round."""
        self._initial = [average.clone() for average in self.averages]
        self._sum: list[Tensor] = []
        self._count = 0

    def add(self, grid: Tensor) -> None:
        """Add the state that a sample left, with its grid ``[1, F, G, G, G]``, and restore the initial one."""
        state = [grid.detach().to(self.grid.dtype), *self.averages]
        if self._count:
            torch._foreach_add_(self._sum, state)
        else:
            self._sum = [tensor.clone() for tensor in state]
        self._count += 1
        torch._foreach_copy_(self.averages, self._initial)

    def end(self, mean_over_ranks: Callable[[Tensor], Tensor]) -> None:
        """Store the mean state after the last sample of a round; ``mean_over_ranks`` averages it as one vector."""
        merged = mean_over_ranks(torch.cat([tensor.flatten() for tensor in self._sum]) / self._count)
        tensors = [self.grid, *self.averages]
        parts = torch.split(merged, [tensor.numel() for tensor in tensors])
        torch._foreach_copy_(tensors, [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)])
