"""The archive renders what the model renders, in a process where dv cannot be imported."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dv.checkpoint import read_checkpoint
from dv.export.archive import PortableGrid
from dv.geometry.trajectory import look_at
from dv.metrics import to_unit
from dv.radiance import RadianceGrid
from radiance_balls import CAMERA, ball_grid

POSE = look_at(torch.tensor([1.2, 0.3, 0.9]), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "export.md"
ELSEWHERE = """
import sys
sys.modules["dv"] = None
import numpy, torch
program = torch.export.load(sys.argv[1]).module()
given = numpy.load(sys.argv[2])
outputs = program(*(torch.from_numpy(given[name]) for name in ("pose", "camera", "columns", "rows")))
numpy.savez(sys.argv[3], *(output.detach().numpy() for output in outputs))
exec(sys.argv[4].replace("vase.pt2", sys.argv[1]))
"""


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"levels": 3, "environment": 8, "decoder_features": 5, "reflection_degree": 2, "near": 0.2, "supersampling": 2},
        {"view_degree": 3, "linear_share": 0.7, "supersampling": 3, "origin": (3.0, -2.0, 1.0)},
    ],
)
def test_the_portable_grid_is_the_grid(sizes):
    grid = ball_grid(grid_side=16, seed=2, **sizes)
    camera = CAMERA._replace(fx=40.0, cx=25.0, cy=12.0, width=31, height=23)
    pose = POSE.clone()
    pose[:3, 3] += torch.tensor(sizes.get("origin", (0.0, 0.0, 0.0)))
    with torch.no_grad():
        found = PortableGrid(grid)(pose, torch.tensor(camera.numbers()), torch.arange(31.0), torch.arange(23.0))
    view = grid.render(pose, camera)
    for output, expected in zip(found, (to_unit(view.image), view.depth, view.opacity), strict=True):
        torch.testing.assert_close(output, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.slow
def test_the_command_writes_an_archive_for_other_processes(command, ball_checkpoint, tmp_path):
    result = command("export", f"ckpt={ball_checkpoint}", "format=archive", f"output_dir={tmp_path / 'out'}")
    assert result.code == 0, result.err
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    assert about["files"] == ["ball.pt2"]
    assert about["camera"] == list(CAMERA.numbers())
    given = {"pose": POSE.numpy(), "camera": np.array(about["camera"], np.float32),
             "columns": np.arange(32.0, dtype=np.float32), "rows": np.arange(4.0, 20.0, dtype=np.float32)}  # fmt: skip
    np.savez(tmp_path / "given.npz", **given)
    script = tmp_path / "elsewhere.py"
    script.write_text(ELSEWHERE)
    paths = [tmp_path / "out" / "ball.pt2", tmp_path / "given.npz", tmp_path / "found.npz"]
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "torch.export" in c)
    code = code.replace("128.0", "8.0")
    done = subprocess.run([sys.executable, "-I", script, *paths, code], check=True, capture_output=True, text=True)
    assert "torch.Size([3, 8, 8]) torch.Size([1, 8, 8])" in done.stdout
    assert "camera-to-world" in done.stdout
    found = np.load(tmp_path / "found.npz")
    assert found["arr_0"].shape == (3, 16, 32)
    saved = read_checkpoint(ball_checkpoint)
    grid = RadianceGrid.from_state(saved.sizes, saved.placement, saved.model_state)
    view = grid.render(POSE, CAMERA)
    for i, expected in enumerate((to_unit(view.image), view.depth, view.opacity)):
        np.testing.assert_allclose(found[f"arr_{i}"], expected[:, 4:20].numpy(), atol=2e-5, rtol=1e-4)
