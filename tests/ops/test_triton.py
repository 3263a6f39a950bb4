"""The kernels for GPUs where there is none: run by Triton's interpreter, and compiled."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton comes with PyTorch for CUDA, and with dv's dev extra on Linux")

COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from dv.ops.compositing_cuda import RAYS, _backward, _forward

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


def test_by_the_interpreter():
    """In a process of its own: Triton asks for this variable when it is imported."""
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
    assert "3 passed" in done.stdout


def test_gpu_kernels_compile_where_there_is_no_gpu(tmp_path):
    """Triton's interpreter takes what its compiler refuses."""
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path)}
    script = tmp_path / "compiled.py"  # kernels are read from source files
    script.write_text(COMPILE)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["_forward"] * 2 + ["_backward"] * 2
