"""The kernels for GPUs: what they compute, on a GPU or by Triton's interpreter, and that they compile for one."""

import os
import subprocess
import sys

import pytest
import torch
from test_compositing import LENGTH, STEP, cells, composite_plainly, scene, with_gradients

from dv.nets.compositing import Rays, empty_distance

triton = pytest.importorskip("triton", reason="Triton comes with PyTorch for CUDA, and with dv's dev extra on Linux")
from dv.nets import compositing_cuda  # noqa: E402  # needs triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from dv.nets.compositing_cuda import RAYS, _backward, _forward

POINTERS = {"index": "*i32", "distance": "*u8"}
NUMBERS = {"count": "i32", "side": "i32"} | dict.fromkeys(("step", "length", "least_raw", "least_through"), "fp32")
for kernel in (_forward, _backward):
    for columns in (3, 11):
        stride = -(-(columns + 1) // 4) * 4
        sizes = {"COUNT": columns, "STRIDE": stride, "WIDE": triton.next_power_of_2(stride), "RAYS": RAYS}
        types = {n: NUMBERS.get(n) or POINTERS.get(n, "*fp32") for n in kernel.arg_names}
        source = triton.compiler.ASTSource(kernel, types | dict.fromkeys(sizes, "constexpr"), sizes)
        compiled = triton.compile(source, GPUTarget("cuda", 90, 32), {"num_warps": 1})
        print(kernel.__name__, columns, len(compiled.asm["cubin"]))
"""


# triton itself must be imported with this variable set, and another test may have imported it
on_gpu_or_interpreted = pytest.mark.skipif(
    DEVICE == "cpu" and not os.environ.get("TRITON_INTERPRET"), reason="run by test_by_the_interpreter, or on a GPU"
)


@pytest.mark.skipif(DEVICE == "cuda" or "TRITON_INTERPRET" in os.environ, reason="the tests below run here")
def test_by_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", __file__]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


@on_gpu_or_interpreted
@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value):RuntimeWarning")  # of axes that rays run across
@pytest.mark.parametrize("seed", [0, 1])
def test_gpu_kernels_equal_a_loop_over_samples(seed):
    density, features, index, rays = scene(seed)
    slow = with_gradients(composite_plainly, density, features, index, rays)
    distance = empty_distance(cells(index != 0))
    given = [x.to(DEVICE) for x in (density.float(), features.float(), index, distance)]
    ours = with_gradients(compositing_cuda.composite, *given, Rays(*(x.float().to(DEVICE) for x in rays)), STEP, LENGTH)
    assert slow[3].any()
    for a, b in zip(ours, slow, strict=True):
        a, there = a.cpu(), b.isfinite()
        assert torch.equal(there, a.isfinite())
        assert (a - b)[there].abs().max() <= 2e-4 * b[there].abs().max()


@on_gpu_or_interpreted
def test_no_rays_and_no_features_are_allowed():
    density, features, index, rays = scene(0)
    given = [x.to(DEVICE) for x in (density.float(), features[:, :0].float(), index, empty_distance(cells(index != 0)))]
    few = Rays(*(x[:3].float().to(DEVICE) for x in rays))
    assert compositing_cuda.composite(*given, few, STEP, LENGTH).features.shape == (3, 0)
    assert compositing_cuda.composite(*given, Rays(*(x[:0] for x in few)), STEP, LENGTH).through.shape == (0,)


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="the interpreter's functions do not compile")
def test_gpu_kernels_compile_where_there_is_no_gpu(tmp_path):
    """Triton's interpreter takes what its compiler refuses."""
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path)}
    script = tmp_path / "compiled.py"  # kernels are read from source files
    script.write_text(COMPILE)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["_forward"] * 2 + ["_backward"] * 2
