"""Light and its sRGB code."""

import torch

from dv.nets.light import decoded, encoded


def test_code_is_that_of_the_standard():
    """By the table of an 8-bit code: 188 is half of the light, 10 lies in the toe."""
    code = torch.tensor([0.0, 10, 188, 255], dtype=torch.float64) / 255
    expected = torch.tensor([0.0, 0.003035, 0.502886, 1], dtype=torch.float64)
    torch.testing.assert_close(decoded(code), expected, rtol=0, atol=1e-6)


def test_one_is_the_inverse_of_the_other_also_where_no_picture_is():
    code = torch.linspace(-1, 2, 1001, dtype=torch.float64)
    torch.testing.assert_close(encoded(decoded(code)), code, rtol=0, atol=1e-6)
    assert (decoded(code).diff() > 0).all()


def test_gradients_are_finite_everywhere():
    for function in (decoded, encoded):
        values = torch.linspace(-1, 2, 1001, dtype=torch.float64, requires_grad=True)
        function(values).sum().backward()
        assert values.grad.isfinite().all()
        assert (values.grad > 0).all()
