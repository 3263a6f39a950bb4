"""Adam that leaves the rows of a table as they are while they have no gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class RowAdam(torch.optim.Adam):
    """Adam whose parameter groups may have ``by_rows=True``: rows without a gradient, and their moments, do not change.

    Few vertices of a grid are seen by the rays of one step. Plain Adam would move all others on by their momentum, and
    would forget the size of their gradients, so that vertices that are seldom seen would make large steps. Its state is
    that of :class:`torch.optim.Adam`. Rows are those of the parameter's first axis.

    Args:
        groups: parameter groups, each with ``by_rows``.
        betas: as of Adam.
        eps: likewise.

    >>> table = torch.nn.Parameter(torch.zeros(3, 2))
    >>> optimizer = RowAdam([{"params": [table], "lr": 0.1, "by_rows": True}])
    >>> table.grad = torch.tensor([[0.0, 0.0], [2.0, -3.0], [0.0, 0.0]])
    >>> optimizer.step()
    >>> table.data
    tensor([[ 0.0000,  0.0000],
            [-0.1000,  0.1000],
            [ 0.0000,  0.0000]])
    """

    def __init__(
        self, groups: list[dict[str, Any]], betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(groups, betas=betas, eps=eps, fused=True)
        self._step_supports_amp_scaling = False  # gradients are unscaled before they come here

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load moments and steps; ``by_rows`` stays, which the states of other Adams lack."""
        by_rows = [group["by_rows"] for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, value in zip(self.param_groups, by_rows, strict=True):
            group["by_rows"] = value

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # overloads
        """Make one step, after calling a closure that computes gradients if there is one; returns its loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        by_rows = [(p, group) for group in self.param_groups if group["by_rows"] for p in group["params"]]
        gradients = [p.grad for p, _ in by_rows]
        for parameter, _ in by_rows:
            parameter.grad = None  # Adam passes over it
        super().step()
        for (parameter, group), gradient in zip(by_rows, gradients, strict=True):
            parameter.grad = gradient
            if gradient is not None:
                self._step_rows(parameter, gradient, group)
        return loss

    def _step_rows(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        adam_rows(parameter.data, gradient, state["exp_avg"], state["exp_avg_sq"], state["step"], group)


def adam_rows(
    table: Tensor, gradient: Tensor, mean: Tensor, mean_square: Tensor, step: Tensor, group: dict[str, Any]
) -> None:
    """Change a table ``[N, …]``, and the moments of its gradient, in the rows whose gradient is not zero.

    Args:
        table: changed in place.
        gradient: of the table.
        mean: running mean of gradients, changed in place.
        mean_square: running mean of squared gradients, likewise.
        step: number of this step, from 1, a scalar.
        group: ``lr``, ``betas`` and ``eps`` of Adam (Kingma and Ba 2015, algorithm 1).
    """
    beta1, beta2 = group["betas"]
    if table.device.type == "cpu":
        from dv.ops.adam_cpu import adam_rows_kernel  # here, because importing numba takes half a second
        from dv.ops.compositing_cpu import set_threads

        set_threads()
        number = table.numpy().dtype.type
        rate, correction = group["lr"] / (1 - beta1 ** float(step)), (1 - beta2 ** float(step)) ** -0.5
        rows = (x.view(len(table), -1).numpy() for x in (table, gradient.contiguous(), mean, mean_square))
        adam_rows_kernel(*rows, *(number(x) for x in (beta1, beta2, group["eps"], rate, correction)))
        return
    adam_rows_reference(table, gradient, mean, mean_square, step, group)


def adam_rows_reference(
    table: Tensor, gradient: Tensor, mean: Tensor, mean_square: Tensor, step: Tensor, group: dict[str, Any]
) -> None:
    """Do the same as :func:`adam_rows` in tensor operations, on any device and without waiting for it."""
    (beta1, beta2), step = group["betas"], step.double()
    has_gradient = (gradient != 0).flatten(1).any(1) if gradient.ndim > 1 else gradient != 0
    has_gradient = has_gradient.view(-1, *(1,) * (gradient.ndim - 1))
    mean.copy_(torch.where(has_gradient, torch.lerp(mean, gradient, 1 - beta1), mean))
    mean_square.copy_(torch.where(has_gradient, torch.lerp(mean_square, gradient.square(), 1 - beta2), mean_square))
    root = (mean_square / (1 - beta2**step)).sqrt_().add_(group["eps"])
    table.sub_(torch.where(has_gradient, group["lr"] / (1 - beta1**step) * mean / root, 0.0))
