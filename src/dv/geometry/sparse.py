"""Interpolation as a sparse matrix product, with the transpose kept for the backward pass."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")


class InterpolationMatrix:
    """A fixed sparse matrix ``[M, N]`` of interpolation weights, differentiable in what it is applied to.

    Args:
        rows: the ``[R]`` ascending rows that are not empty.
        columns: ``[R, K]`` indices of the K neighbours of each such row.
        weights: ``[R, K]`` their weights.
        shape: (M, N).
    """

    def __init__(self, rows: Tensor, columns: Tensor, weights: Tensor, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.neighbours = columns.shape[1]
        self.rows = rows.int()
        self.columns = columns.flatten().int()
        self.weights = weights.flatten()
        self._ready: dict[tuple[torch.device, torch.dtype, bool], Tensor] = {}

    def matrix(self, like: Tensor, transpose: bool = False) -> Tensor:
        """This matrix (or its transpose) as sparse CSR on the device and in the dtype of ``like``; kept once made."""
        key = (like.device, like.dtype, transpose)
        if key not in self._ready:
            weights = self.weights.to(like.dtype)
            if transpose:
                order = self.columns.argsort(stable=True)
                columns, weights = self.rows.index_select(0, order // self.neighbours), weights.take(order)
                starts = _starts(torch.bincount(self.columns, minlength=self.shape[1]))
            else:
                counts = self.rows.new_zeros(self.shape[0])
                counts[self.rows] = self.neighbours
                columns, starts = self.columns, _starts(counts)
            size = self.shape[::-1] if transpose else self.shape
            self._ready[key] = torch.sparse_csr_tensor(starts, columns, weights, size, check_invariants=False).to(
                like.device
            )
        return self._ready[key]

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes, once the matrix and its transpose have been made in fp32."""
        return 4 * self.columns.nbytes + self.weights.nbytes + 4 * sum(self.shape) + self.rows.nbytes

    def __matmul__(self, values: Tensor) -> Tensor:
        """Apply to ``values`` ``[N, C]``, giving ``[M, C]`` in their dtype (16-bit values are summed in fp32)."""
        wide = values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
        result: Tensor = _Product.apply(self, wide)  # type: ignore[no-untyped-call]
        return result.to(values.dtype)


def _starts(counts: Tensor) -> Tensor:
    """Where each row starts, and the last ends, given its length."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0, dtype=counts.dtype)]).int()


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, operator: InterpolationMatrix, values: Tensor) -> Tensor:
        ctx.operator = operator
        with torch.autocast(values.device.type, enabled=False):
            return operator.matrix(values) @ values.contiguous()  # by rows, and so is the result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        gradient = gradient.contiguous()
        with torch.autocast(gradient.device.type, enabled=False):
            return None, ctx.operator.matrix(gradient, transpose=True) @ gradient
