"""Interpolation as a sparse matrix product whose backward pass uses a cached transpose."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")


class InterpolationMatrix:
    """A constant sparse matrix ``[M, N]`` of interpolation weights; products are differentiable in their operand.

    Args:
        rows: ``[R]``, indices of the non-empty rows, ascending.
        columns: ``[R, K]``, indices of the K neighbours of each such row.
        weights: ``[R, K]``, weights of these neighbours.
        shape: (M, N).

    >>> mean = InterpolationMatrix(torch.tensor([1]), torch.tensor([[0, 2]]), torch.tensor([[0.5, 0.5]]), shape=(2, 3))
    >>> mean @ torch.tensor([[2.0], [5.0], [4.0]])
    tensor([[0.],
            [3.]])
    """

    def __init__(self, rows: Tensor, columns: Tensor, weights: Tensor, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.neighbour_count = columns.shape[1]
        self.rows = rows.int()
        self.columns = columns.flatten().int()
        self.weights = weights.flatten()
        self._csr: dict[tuple[torch.device, torch.dtype, bool], Tensor] = {}

    def matrix(self, like: Tensor, transpose: bool = False) -> Tensor:
        """Return this matrix as a sparse CSR tensor, built at the first call and then cached.

        Args:
            like: gives the device and the dtype.
            transpose: whether to return the transpose ``[N, M]`` instead.
        """
        key = (like.device, like.dtype, transpose)
        if key not in self._csr:
            weights = self.weights.to(like.dtype)
            if transpose:
                order = self.columns.argsort(stable=True)
                columns, weights = self.rows.index_select(0, order // self.neighbour_count), weights.take(order)
                starts = _row_pointers(torch.bincount(self.columns, minlength=self.shape[1]))
            else:
                counts = self.rows.new_zeros(self.shape[0])
                counts[self.rows] = self.neighbour_count
                columns, starts = self.columns, _row_pointers(counts)
            size = self.shape[::-1] if transpose else self.shape
            self._csr[key] = torch.sparse_csr_tensor(starts, columns, weights, size, check_invariants=False).to(
                like.device
            )
        return self._csr[key]

    @property
    def nbytes(self) -> int:
        """Memory in bytes, including the matrix and its transpose in fp32."""
        return 4 * self.columns.nbytes + self.weights.nbytes + 4 * sum(self.shape) + self.rows.nbytes

    def __matmul__(self, values: Tensor) -> Tensor:
        """Multiply by ``values`` ``[N, C]``; returns ``[M, C]`` in their dtype (16-bit values are summed in fp32)."""
        wide = values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
        result: Tensor = _Product.apply(self, wide)  # type: ignore[no-untyped-call]
        return result.to(values.dtype)


def _row_pointers(counts: Tensor) -> Tensor:
    """Return the CSR row pointers ``[M + 1]`` of rows with ``counts`` ``[M]`` entries."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0, dtype=counts.dtype)]).int()


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, operator: InterpolationMatrix, values: Tensor) -> Tensor:
        ctx.operator = operator
        with torch.autocast(values.device.type, enabled=False):
            return operator.matrix(values) @ values.contiguous()  # row-major operand, row-major result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        gradient = gradient.contiguous()
        with torch.autocast(gradient.device.type, enabled=False):
            return None, ctx.operator.matrix(gradient, transpose=True) @ gradient
