"""The GPU kernels on machines without a GPU: Triton's interpreter runs them, and its compiler compiles them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is installed with PyTorch for CUDA, and with the extra dv[dev] on Linux")

COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from dv.ops.marching_cuda import RAYS, backward_kernel, forward_kernel

POINTERS = {"index": "*i32", "distance": "*u8"}
FLOATS = ("step_size", "interval", "min_raw", "min_transmittance", "near")
NUMBERS = dict.fromkeys(("count", "side"), "i32") | dict.fromkeys(FLOATS, "fp32")
for kernel in (forward_kernel, backward_kernel):
    for channels in (3, 11):
        stride = -(-(channels + 1) // 4) * 4
        sizes = {"CHANNELS": channels, "STRIDE": stride, "BLOCK": triton.next_power_of_2(stride), "RAYS": RAYS}
        sizes["LEVELS"] = 1 if channels == 3 else 6
        if kernel is backward_kernel:
            sizes["RAY_GRADIENTS"] = channels == 11
        types = {n: NUMBERS.get(n) or POINTERS.get(n, "*fp32") for n in kernel.arg_names}
        source = triton.compiler.ASTSource(kernel, types | dict.fromkeys(sizes, "constexpr"), sizes)
        compiled = triton.compile(source, GPUTarget("cuda", 90, 32), {"num_warps": 1})
        print(kernel.__name__, channels, len(compiled.asm["cubin"]))
"""


@pytest.mark.slow
def test_gpu_kernels_in_the_interpreter():
    """The tests run in a new process because Triton reads TRITON_INTERPRET at import."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:xdist",
        str(Path(__file__).with_name("test_compositing_cuda.py")),
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout


def test_gpu_kernels_compile_without_a_gpu(tmp_path):
    """Triton's interpreter accepts code that its compiler rejects."""
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path)}
    script = tmp_path / "compiled.py"  # Triton reads the source of kernels from files
    script.write_text(COMPILE)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["forward_kernel"] * 2 + ["backward_kernel"] * 2
