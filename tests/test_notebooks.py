"""The notebooks are stored without outputs, and run from top to bottom."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from dv.prepare.lens import Lens
from photo_scene import poses_around, render_scene, write_jpeg

ROOT = Path(__file__).parents[1]
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_is_stored_without_outputs_and_paths(name):
    text = NOTEBOOKS[name].read_text()
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert not re.search(r"(?<![\w.:/{}])/(home|root|work|tmp|Users|usr|mnt)\b", text)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_links_of_a_notebook_exist(name):
    folder = NOTEBOOKS[name].parent
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", NOTEBOOKS[name].read_text())
    assert links
    assert [link for link in links if not (folder / link).exists()] == []


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Return a function that runs a notebook at a tiny size: its printed text, and the number of its images."""
    for name, value in {"STEPS": "5", "SIDE": "32", "FOLDER": tmp_path / "results"}.items():
        monkeypatch.setenv(f"DV_NOTEBOOK_{name}", str(value))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # for tensors this small more threads only wait for each other

    def run(name: str) -> tuple[str, int]:
        path = NOTEBOOKS[name]
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        printed = "".join(output.get("text", "") for output in outputs)
        assert "error:" not in printed
        assert "Traceback" not in printed
        return printed, sum("image/png" in output.get("data", {}) for output in outputs)

    return run


def frames_of(film: Path) -> int:
    """Return the number of frames of a film, which has a video and as many depth images."""
    assert (film / "video.mp4").stat().st_size > 1000
    frames = len(list(film.glob("rgb/*.png")))
    assert len(list(film.glob("depth/*.png"))) == frames
    return frames


def assert_page(path: Path) -> None:
    assert path.stat().st_size > 1e5
    assert "webgl2" in path.read_text()


@pytest.mark.slow
def test_quickstart(execute, tmp_path):
    printed, images = execute("01_quickstart")
    assert images == 5
    run = tmp_path / "results" / "quickstart"
    assert "nearest view" in printed
    assert len(json.loads((run / "metrics.json").read_text())["views"]) == 20
    assert frames_of(run / "spiral") == 72
    assert_page(run / "export" / "html" / "vase.html")


@pytest.mark.slow
def test_inside_deepvoxels(execute):
    printed, images = execute("02_inside_deepvoxels")
    assert images == 11
    rays = re.findall(r"transmittance of the ray .*: ([\d.]+), by the kernel ([\d.]+)", printed)
    assert len(rays) == 2
    for ours, kernel in rays:
        assert float(ours) == pytest.approx(float(kernel), abs=0.01)


@pytest.mark.slow
def test_your_own_photographs(execute, tmp_path, monkeypatch):
    pytest.importorskip("pycolmap")
    folder = tmp_path / "some photographs"
    folder.mkdir()
    lens = Lens(240, 240, 260, 260, 120, 120)
    for i, pose in enumerate(poses_around(14, arc=150)):
        write_jpeg(folder / f"{i:02d}.jpg", render_scene(pose, lens))
    monkeypatch.setenv("DV_NOTEBOOK_PHOTOGRAPHS", str(folder))
    printed, images = execute("03_your_own_photographs")
    assert images == 4
    assert "rendered still_life" not in printed
    run = tmp_path / "results" / "photographs"
    assert json.loads((run / "metrics.json").read_text())["mean"]["psnr"] > 10
    assert (run / "check" / "contact_sheet.png").is_file()
    assert frames_of(run / "spiral") == frames_of(run / "alone") == 48
    assert_page(run / "export" / "html" / "thing.html")


@pytest.mark.slow
def test_sweeps_and_reports(execute, tmp_path):
    printed, images = execute("04_sweeps_and_reports")
    assert images == 7
    assert printed.count("is finished (best validation PSNR") == 6
    sweep, study = (tmp_path / "results" / name for name in ("sweep", "study"))
    assert len(list(sweep.glob("*/metrics.json"))) == 6
    assert len(list(study.glob("*/metrics.json"))) == 3
    for folder in (sweep, study):
        assert (folder / "report" / "report.md").read_text().count("\n|") >= 4
        assert len(list(folder.glob("report/plots/*.png"))) == 3
