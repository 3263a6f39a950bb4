"""The GPU kernels equal a plain loop over samples, on a GPU or in Triton's interpreter (see test_triton.py)."""

import os

import pytest
import torch
from test_compositing import INTERVAL, STEP_SIZE, cells, composite_by_loop, scene, with_gradients

from dv.ops.compositing import Rays, empty_space_distance

INTERPRETED = "TRITON_INTERPRET" in os.environ
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("needs a GPU or Triton's interpreter, see test_triton.py", allow_module_level=True)

compositing_cuda = pytest.importorskip("dv.ops.compositing_cuda", reason="Triton is installed with PyTorch for CUDA")
DEVICE = "cpu" if INTERPRETED else "cuda"


@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value):RuntimeWarning")  # for rays perpendicular to an axis
@pytest.mark.parametrize(("seed", "near"), [(0, 0.0), (1, 0.0), (1, 3.1)])
def test_gpu_kernels_equal_a_loop_over_samples(seed, near):
    density, features, index, rays = scene(seed)
    slow = with_gradients(composite_by_loop, density, features, index, rays, near)
    distance = empty_space_distance(cells(index != 0))
    inputs = [x.to(DEVICE) for x in (density.float(), features.float(), index, distance)]
    ours = with_gradients(
        compositing_cuda.composite, *inputs, Rays(*(x.float().to(DEVICE) for x in rays)), STEP_SIZE, INTERVAL, near
    )
    assert slow[3].any()
    for a, b in zip(ours, slow, strict=True):
        a, finite = a.cpu(), b.isfinite()
        assert torch.equal(finite, a.isfinite())
        assert (a - b)[finite].abs().max() <= 2e-4 * b[finite].abs().max()


def test_no_rays_and_no_features_are_allowed():
    density, features, index, rays = scene(0)
    inputs = [
        x.to(DEVICE) for x in (density.float(), features[:, :0].float(), index, empty_space_distance(cells(index != 0)))
    ]
    three_rays = Rays(*(x[:3].float().to(DEVICE) for x in rays))
    assert compositing_cuda.composite(*inputs, three_rays, STEP_SIZE, INTERVAL).features.shape == (3, 0)
    assert compositing_cuda.composite(
        *inputs, Rays(*(x[:0] for x in three_rays)), STEP_SIZE, INTERVAL
    ).transmittance.shape == (0,)
