"""A package that is installed outside the clone finds its configuration, and its commands work."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_installed_package_works_outside_the_clone(tmp_path, ball):
    venv.create(tmp_path / "venv", with_pip=True, system_site_packages=False)
    python = tmp_path / "venv" / "bin" / "python"
    # the dependencies are those of this environment; only dv itself is installed
    site = next(p for p in sys.path if p.endswith("site-packages"))
    (next((tmp_path / "venv" / "lib").glob("python*")) / "site-packages" / "host.pth").write_text(site)
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", str(ROOT)], check=True, cwd=tmp_path)
    locations = subprocess.run(
        [python, "-c", "import dv, dv.tasks.command as c; print(dv.__file__); print(c.config_folder())"],
        check=True, capture_output=True, text=True, cwd=tmp_path,
    ).stdout  # fmt: skip
    assert str(ROOT) not in locations
    assert locations.strip().endswith("dv/conf")
    done = subprocess.run(
        [tmp_path / "venv" / "bin" / "dv-train", "object=custom", f"object.root={ball}", "object.name=ball",
         "trainer=debug", "grid.side=8", "grid.feature_side=16", "grid.features=4", "model.base_channels=4", "loss=l1",
         "loss.border=2", f"hydra.run.dir={tmp_path / 'run'}"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()
