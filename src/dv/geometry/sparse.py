"""Interpolation as a sparse matrix product, with the transpose kept for the backward pass."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
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
        return apply_all([self], values)[0]


def apply_all(operators: Sequence[InterpolationMatrix], values: Tensor) -> Tensor:
    """Each of B matrices of one shape ``[M, N]`` applied to ``values`` ``[N, C]``: ``[B, M, C]`` in their dtype."""
    wide = values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
    result: Tensor = _Products.apply(operators, wide)  # type: ignore[no-untyped-call]
    return result.to(values.dtype)


def _starts(counts: Tensor) -> Tensor:
    """Where each row starts, and the last ends, given its length."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0, dtype=counts.dtype)]).int()


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, operators: Sequence[InterpolationMatrix], values: Tensor) -> Tensor:
        ctx.operators = operators
        results = values.new_empty(len(operators), operators[0].shape[0], values.shape[1])
        with torch.autocast(values.device.type, enabled=False):
            for operator, result in zip(operators, results, strict=True):
                torch.mm(operator.matrix(values), values, out=result)
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor) -> tuple[None, Tensor]:
        gradients = gradients.contiguous()
        with torch.autocast(gradients.device.type, enabled=False):
            products = [o.matrix(g, transpose=True) @ g for o, g in zip(ctx.operators, gradients, strict=True)]
        return None, torch.stack(products).sum(0) if len(products) > 1 else products[0]
