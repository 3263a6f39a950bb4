"""Compiled encoding of rays equals the one in tensor operations, forward and backward."""

import pytest
import torch
import torch.nn.functional as F

from dv.ops.encoding import Degrees, encode, encode_reference


def with_gradients(function, features, directions, degrees):
    """Return colours, inputs of the decoder, and gradients of features and directions."""
    given = features.clone().requires_grad_(), directions.clone().requires_grad_()
    outputs = function(*given, degrees)
    g = torch.Generator().manual_seed(1)
    weights = [torch.randn(o.shape, generator=g, dtype=torch.float64).to(o) for o in outputs]
    gradients = torch.autograd.grad(
        sum((o * w).sum() for o, w in zip(outputs, weights, strict=True)), given, materialize_grads=True
    )
    return [*(o.detach() for o in outputs), *gradients]


DEGREES = [(0, 0, 0), (0, 1, 4), (0, 4, 1), (1, 0, 0), (1, 1, 3), (2, 4, 0), (3, 2, 2), (4, 0, 1), (4, 4, 4)]


@pytest.mark.parametrize("degrees", DEGREES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_compiled_encoding_equals_tensor_operations(degrees, dtype):
    degrees = Degrees(*degrees)
    g = torch.Generator().manual_seed(sum(degrees))
    count = int(torch.randint(1, 700, (), generator=g))
    more = int(torch.randint(0, 6, (), generator=g))
    features = torch.randn(count, 3 * (degrees.view + 1) ** 2 + more + 3 * (degrees.reflection > 0), generator=g)
    if degrees.reflection:
        features[::5, -3:] *= 1e-4  # shorter than those that are scaled to unit length
        features[::7, -3:] = 0
    features = features.to(dtype)
    directions = F.normalize(torch.randn(count, 3, generator=g, dtype=dtype), dim=1)
    fast = with_gradients(encode, features, directions, degrees)
    slow = with_gradients(encode_reference, features.double(), directions.double(), degrees)
    for a, b in zip(fast, slow, strict=True):
        assert a.shape == b.shape
        assert a.dtype == dtype
        torch.testing.assert_close(
            a.double(),
            b,
            rtol=1e-10 if dtype == torch.float64 else 2e-4,
            atol=0.0 if not b.numel() else float(b.abs().max()) * (1e-12 if dtype == torch.float64 else 1e-5),
        )
