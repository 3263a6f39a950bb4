"""RowAdam: the kernel against tensor operations, and both against plain Adam."""

import pytest
import torch

from dv.lightning.row_adam import RowAdam, adam_rows, adam_rows_reference

BETAS = 0.9, 0.99


def random_gradients(shape, steps, share, dtype, seed):
    """Gradients of some steps, each with a share of rows that are not zero."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        gradient = torch.randn(shape, generator=generator, dtype=dtype)
        keep = torch.rand(shape[0], generator=generator) < share
        yield gradient * keep.view(-1, *(1,) * (len(shape) - 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1,), (300,), (57, 1), (200, 11), (64, 16), (33, 27)])
def test_the_kernel_equals_tensor_operations(shape, dtype):
    group = {"lr": 0.03, "betas": BETAS, "eps": 1e-15}
    tables = [torch.linspace(-1, 1, shape[0], dtype=dtype).view(-1, *(1,) * (len(shape) - 1)).expand(shape)] * 2
    states = [(table.clone(), torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)) for table in tables]
    for number, gradient in enumerate(random_gradients(shape, 20, 0.3, dtype, 0)):
        before = states[0][0].clone()
        for state, update in zip(states, (adam_rows, adam_rows_reference), strict=True):
            update(state[0], gradient, *state[1:], torch.tensor(number + 1.0), group)
        still = (gradient == 0).flatten(1).all(1) if gradient.ndim > 1 else gradient == 0
        assert torch.equal(states[0][0][still], before[still])
    for ours, theirs in zip(*states, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_rows_that_always_have_a_gradient_are_those_of_plain_adam():
    ours, theirs, plain = (torch.nn.Parameter(torch.full((40, 3), 0.5)) for _ in range(3))
    row_adam = RowAdam(
        [{"params": [ours], "lr": 0.01, "by_rows": True}, {"params": [plain], "lr": 0.02, "by_rows": False}],
        betas=BETAS, eps=1e-15,
    )  # fmt: skip
    other = torch.nn.Parameter(plain.detach().clone())
    adam = torch.optim.Adam([{"params": [theirs], "lr": 0.01}, {"params": [other], "lr": 0.02}], betas=BETAS, eps=1e-15)
    for gradient in random_gradients((40, 3), 10, 1.1, torch.float32, 1):
        for parameter in (ours, theirs, plain, other):
            parameter.grad = gradient.clone()
        row_adam.step()
        adam.step()
        assert ours.grad is not None, "gradients are kept, as Adam keeps them"
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(plain, other)


def test_a_closure_computes_the_gradients_of_this_step():
    table = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = RowAdam([{"params": [table], "lr": 0.1, "by_rows": True}])

    def closure():
        optimizer.zero_grad()
        loss = table[1].sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 2
    torch.testing.assert_close(table.detach(), torch.tensor([[1.0, 1.0], [0.9, 0.9], [1.0, 1.0]]))


def test_states_of_plain_adam_can_be_loaded():
    """Trainings that began with plain Adam go on."""
    table = torch.nn.Parameter(torch.zeros(4, 2))
    adam = torch.optim.Adam([table], lr=0.01, betas=BETAS, eps=1e-15)
    table.grad = torch.ones(4, 2)
    adam.step()
    row_adam = RowAdam([{"params": [table], "lr": 0.01, "by_rows": True}], betas=BETAS, eps=1e-15)
    row_adam.load_state_dict(adam.state_dict())
    before = table.detach().clone()
    table.grad = torch.zeros(4, 2)
    table.grad[1] = 1
    row_adam.step()
    assert torch.equal(table[[0, 2, 3]], before[[0, 2, 3]])
    assert row_adam.state[table]["step"] == 2
    assert (table[1] < before[1]).all()


def test_epsilon_keeps_rows_of_faint_gradients():
    """Of two vertices, the one whose gradients are a thousandth of ε stays; without ε both move equally."""
    moved = {}
    for eps in (1e-15, 1e-6):
        table = torch.nn.Parameter(torch.zeros(2, 3))
        optimizer = RowAdam([{"params": [table], "lr": 0.1, "by_rows": True, "eps": eps}], betas=BETAS)
        for _ in range(5):
            table.grad = torch.tensor([[1e-3], [1e-9]]).expand(2, 3).clone()
            optimizer.step()
        moved[eps] = -table.data[:, 0]
    torch.testing.assert_close(moved[1e-15], torch.full((2,), 0.5), rtol=1e-4, atol=0)
    torch.testing.assert_close(moved[1e-6][0], torch.tensor(0.5), rtol=2e-3, atol=0)
    assert 0 < moved[1e-6][1] < 1e-3
