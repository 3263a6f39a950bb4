"""Contents of W&B's offline files. Every run is a separate process, as for a user."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import TINY, compose_config
from dv.geometry.grid import GridPlacement
from dv.lightning.callbacks import grid_scalars
from dv.lightning.loggers import RunTensorBoardLogger, RunWandbLogger, log_image, log_point_cloud
from dv.lightning.wandb_file import records, truncate_incomplete_record
from dv.ops.point_cloud import strongest_voxels
from wandb_runs import Run, runs

NAMESPACES = ("train/", "val/", "test/", "time/", "grid/")
MEDIA = {"views", "gates", "voxels", "validation", "trajectory", "trainer/global_step"}
COMMAND = [sys.executable, str(Path(__file__).parents[2] / "train.py")]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Environment variables of a user without a W&B key."""
    home = tmp_path_factory.mktemp("home")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    return inherited | {"HOME": str(home), "NETRC": str(home / "netrc"), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def arguments(ball):
    return ["object=custom", f"object.root={ball}", "object.name=ball", *TINY, "loss=l1"]


@pytest.fixture(scope="module")
def train(environment, arguments):
    def call(*more, logger=("logger=wandb", "logger.frames=4"), **variables):
        return subprocess.run(
            [*COMMAND, *more, *arguments, *logger], env=environment | variables, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=500,
        )  # fmt: skip

    return call


@pytest.fixture(scope="module")
def finished_run(train, tmp_path_factory):
    """Folder of an uninterrupted run of 4 steps."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    done = train(f"hydra.run.dir={folder}", "logger.tags=[tiny,ball]", "logger.notes=a note")
    assert done.returncode == 0, done.stderr
    assert f"wandb sync {folder}/wandb" in done.stdout + done.stderr
    return folder


def metrics(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the columns of metrics.csv as lists of step and value."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [(int(r["step"]), float(r[name])) for r in rows if r[name]] for name in rows[0] if name != "step"}


def assert_has_metrics(found: list[Run], folder: Path) -> None:
    """Assert that the runs together have every row of metrics.csv once, and no other scalar."""
    expected = metrics(folder)
    for name, rows in expected.items():
        logged = [row for run in found for row in run.rows(name)]
        assert [step for step, _ in logged] == [step for step, _ in rows], name
        np.testing.assert_allclose([v for _, v in logged], [v for _, v in rows], rtol=1e-6, err_msg=name)
    assert {name for run in found for name in run.names()} - MEDIA == set(expected)


def test_a_run_records_its_name_configuration_and_revision(finished_run):
    (run,) = runs(finished_run)
    assert (run.run.display_name, run.run.project, run.run.job_type) == ("first", "dv", "train")
    assert (run.run.run_group, list(run.run.tags), run.run.notes) == ("", ["tiny", "ball"], "a note")
    assert run.config["grid"] == {"side": 8, "features": 4, "feature_side": 16}
    assert run.config["trainer"]["max_steps"] == 4
    root = Path(__file__).parents[2]
    if (root / ".git").exists():
        head = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        assert run.config["revision"].removesuffix("-dirty") == head.stdout.strip()
    assert run.exit_codes == [0]


def test_scalars_equal_metrics_csv_and_have_five_namespaces(finished_run):
    (run,) = runs(finished_run)
    assert_has_metrics(runs(finished_run), finished_run)
    assert all(name.startswith(NAMESPACES) for name in metrics(finished_run))
    grid = {"mean", "std", "zero_voxels", "change_norm", "update_gate", "reset_gate"}
    assert {f"grid/{name}" for name in grid} <= run.names()
    assert [step for step, _ in run.rows("grid/change_norm")] == [0, 1, 2, 3]
    assert [row["trainer/global_step"] for row in run.history] == [0, 1, 2, 3, 4]  # one row per step
    assert run.summary["val/best_psnr"] == max(value for _, value in run.rows("val/psnr"))


def test_images_are_logged_at_their_size(finished_run):
    (run,) = runs(finished_run)
    for name, size in (("views", (132, 528)), ("gates", (264, 396))):
        assert [step for step, _ in run.rows(name)] == [1, 3]
        for step, logged in run.rows(name):
            image = iio.imread(run.files / logged["filenames"][0])
            assert image.shape[:2] == size
            np.testing.assert_array_equal(image, iio.imread(finished_run / "pictures" / f"{name}_{step + 1:07d}.png"))
    for step, cloud in run.rows("voxels"):
        points = np.array(json.loads((run.files / cloud["path"]).read_text()))
        assert points.shape == (51, 6)  # a tenth of the voxels
        assert np.abs(points[:, :3]).max() <= 0.5
        assert (
            f"element vertex {len(points)}\n".encode()
            in (finished_run / f"pictures/voxels_{step + 1:07d}.ply").read_bytes()
        )


def test_the_end_of_a_run_logs_validation_views_video_and_checkpoint(finished_run, ball):
    (run,) = runs(finished_run)
    assert [step for step, _ in run.rows("validation")] == [4]
    uploads = {file.path: file for file in run.artifacts["run_table"].manifest.contents}
    table = json.loads(Path(uploads["validation.table.json"].local_path).read_text())
    assert table["columns"] == ["name", "psnr", "ssim", "prediction", "truth", "depth", "nearest training view"]
    assert [row[0] for row in table["data"]] == ["000000", "000001"]
    assert np.mean([row[1] for row in table["data"]]) == pytest.approx(run.summary["val/best_psnr"], abs=1e-3)
    for name, _, _, *cells in table["data"]:
        images = [iio.imread(uploads[cell["path"]].local_path) for cell in cells]
        assert [image.shape for image in images] == [(32, 32, 3)] * 4
        np.testing.assert_array_equal(images[1], iio.imread(ball / f"validation/ball/rgb/{name}.png"))
    ((_, video),) = run.rows("trajectory")
    assert len(iio.imread(run.files / video["path"])) == 4
    model = run.artifacts["model"]
    (file,) = model.manifest.contents
    assert "best" in model.aliases
    assert json.loads(model.metadata)["steps"] == run.summary["val/best_steps"]
    assert Path(file.local_path).read_bytes() == (finished_run / "checkpoints/best.ckpt").read_bytes()
    uploads = [Path(c.local_path) for artifact in run.artifacts.values() for c in artifact.manifest.contents]
    assert all(path.is_file() and path.is_relative_to(finished_run) for path in uploads)  # nothing in the home folder


def test_logging_does_not_change_the_training(finished_run, train, tmp_path):
    assert train(f"hydra.run.dir={tmp_path}", logger=["logger=csv"]).returncode == 0
    ours, theirs = (
        torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for folder in (finished_run, tmp_path)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_every_job_of_a_sweep_is_a_run(train, tmp_path):
    sweep = tmp_path / "rates"
    without_uploads = ["logger.table_views=0", "logger.trajectory=null", "logger.artifact=false"]
    done = train(
        "-m", "optimizer.learning_rate=1e-3,2e-3", "trainer.max_steps=2", f"hydra.sweep.dir={sweep}", *without_uploads,
        "logger.not_in_run_name=[object,grid,model,trainer,loss]", WANDB_RUN_GROUP="another",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [run for job in ("0", "1") for run in runs(sweep / job)]
    assert [run.run.display_name for run in found] == ["optimizer.learning_rate=0.001", "optimizer.learning_rate=0.002"]
    assert [run.config["optimizer"]["learning_rate"] for run in found] == [1e-3, 2e-3]
    assert {run.run.run_group for run in found} == {"rates"}
    assert len({run.run.run_id for run in found}) == 2
    for job, run in zip(("0", "1"), found, strict=True):
        assert_has_metrics([run], sweep / job)
        assert run.exit_codes == [0]
        assert not run.artifacts
        assert not run.names() & {"validation", "trajectory"}


@pytest.mark.slow
def test_concurrent_runs_are_separate(train, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        folders = [tmp_path / name for name in ("a", "b")]
        done = list(
            pool.map(lambda f: train(f"hydra.run.dir={f}", "trainer.max_steps=2", f"seed={ord(f.name)}"), folders)
        )
    assert [d.returncode for d in done] == [0, 0], done[0].stderr + done[1].stderr
    found = [run for folder in folders for run in runs(folder)]
    assert [run.run.display_name for run in found] == ["a", "b"]
    assert [run.config["seed"] for run in found] == [ord("a"), ord("b")]
    assert len({run.run.run_id for run in found}) == 2
    for folder, run in zip(folders, found, strict=True):
        assert_has_metrics([run], folder)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_resumes_as_the_same_run(train, environment, arguments, tmp_path, signum):
    folder = tmp_path / "run"
    more = [f"hydra.run.dir={folder}", "trainer.save_every_steps=5", "trainer.validate_every_steps=3"]
    process = subprocess.Popen(
        [*COMMAND, *arguments, "logger=wandb", *more, "trainer.max_steps=100000"], env=environment
    )
    deadline = time.time() + 300
    while not (folder / "checkpoints/last.ckpt").is_file() and time.time() < deadline:
        time.sleep(0.05)
    if signum == signal.SIGKILL:
        time.sleep(2)  # longer than W&B buffers rows
    process.send_signal(signum)
    assert process.wait(60) == (143 if signum == signal.SIGTERM else -9)
    time.sleep(1)
    (before,) = runs(folder)
    assert before.run.display_name == "run"
    assert before.exit_codes == ([143] if signum == signal.SIGTERM else [])  # without exit code, W&B shows a failure
    if signum == signal.SIGTERM:
        assert_has_metrics([before], folder)
    steps = len(before.rows("train/psnr")) + 6
    done = train(*more, f"trainer.max_steps={steps}", "resume=auto", "logger.table_views=1")
    assert done.returncode == 0, done.stderr
    found = runs(folder)
    assert [run.run.run_id for run in found] == [before.run.run_id] * 2
    assert [run.run.resume for run in found] == [False, True]
    assert found[1].exit_codes == [0]
    times = {name for name in metrics(folder) if name.startswith("time/")}
    for name, rows in metrics(folder).items():
        logged = [row for run in found for row in run.rows(name)]
        assert [step for step, _ in logged] == [step for step, _ in rows], name
        if name not in times:  # repeated steps take another time; their other values are the same
            np.testing.assert_allclose([v for _, v in logged], [v for _, v in rows], rtol=1e-6, err_msg=name)
    assert [step for run in found for step, _ in run.rows("validation")] == [steps]


@pytest.mark.slow
def test_ranks_share_one_run(train, tmp_path):
    folder = tmp_path / "ddp"
    done = train(f"hydra.run.dir={folder}", "trainer.gpus=0", "trainer.processes=2")
    assert done.returncode == 0, done.stderr
    (run,) = runs(folder)
    assert run.run.display_name == "ddp"
    assert run.exit_codes == [0]
    assert_has_metrics([run], folder)
    assert [path for path in tmp_path.rglob("wandb") if path.is_dir()] == [folder / "wandb"]


def test_another_run_in_the_same_folder_gets_a_new_id(tmp_path):
    offline = compose_config("train", "logger=wandb", "logger.mode=offline").logger
    first = RunWandbLogger(tmp_path, {}, offline, kept=None)
    (tmp_path / "wandb.json").write_text(json.dumps({"id": first.version, "name": "sweep's", "group": "sweep"}))
    assert RunWandbLogger(tmp_path, {}, offline, kept=None).version != first.version
    resumed = RunWandbLogger(tmp_path, {}, offline, kept=[])
    assert resumed.version == first.version
    assert (resumed._wandb_init["name"], resumed._wandb_init["group"]) == ("sweep's", "sweep")


def test_a_run_stays_offline_until_its_offline_records_are_uploaded(tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    (tmp_path / "wandb.json").write_text(json.dumps({"id": "abc", "name": None, "group": None}))
    file = tmp_path / "wandb/offline-run-1-abc/run-abc.wandb"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    online = compose_config("train", "logger=wandb", "logger.mode=online").logger
    assert RunWandbLogger(tmp_path, {}, online, kept=[])._wandb_init["mode"] == "offline"
    assert "staying offline" in caplog.text
    file.with_name("run-abc.wandb.synced").touch()
    assert RunWandbLogger(tmp_path, {}, online, kept=[])._wandb_init["mode"] == "online"


def test_an_incomplete_last_record_is_truncated(finished_run, tmp_path):
    (whole,) = finished_run.glob("wandb/offline-run-*/run-*.wandb")
    incomplete = tmp_path / "run.wandb"
    incomplete.write_bytes(whole.read_bytes()[:-5])
    complete = list(records(incomplete))
    assert len(complete) == len(list(records(whole))) - 1
    truncate_incomplete_record(incomplete)
    assert list(records(incomplete)) == complete
    size = incomplete.stat().st_size
    truncate_incomplete_record(incomplete)
    assert incomplete.stat().st_size == size < whole.stat().st_size - 5


def test_tensorboard_of_a_resumed_run_has_no_duplicates(tmp_path):
    for first, resumed in ((0, None), (2, 2)):
        logger = RunTensorBoardLogger(tmp_path, resumed)
        for step in range(first, first + 4):
            logger.log_metrics({"val/psnr": float(step), "epoch": 0}, step)
            log_image([logger], "views", torch.rand(3, 8, 8), step + 1)
            log_point_cloud([logger], "voxels", torch.rand(5, 3), torch.rand(5, 3), step + 1)
        logger.experiment.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"), {"images": 0}).Reload()  # 0 keeps all images
    assert events.Tags()["scalars"] == ["val/psnr"]
    assert [event.step for event in events.Scalars("val/psnr")] == [0, 1, 2, 3, 4, 5]
    assert [event.step for event in events.Images("views")] == [0, 1, 2, 3, 4, 5]
    assert "voxels_VERTEX" in events.Tags()["tensors"]


def test_the_strongest_voxels_are_selected():
    placement = GridPlacement((1.0, 2.0, 3.0), 2.0, 0.5)
    grid = torch.zeros(1, 5, 8, 8, 8)
    grid[0, :, 1, 2, 6] = 3.0  # z, y, x
    points, colors = strongest_voxels(grid, placement.voxel_centers(grid.shape[-1]), 8192)
    torch.testing.assert_close(points, torch.tensor([[1.0 + 0.5, 2.0 - 0.5, 3.0 - 0.75]]))
    assert colors.shape == (1, 3)
    grid = torch.randn(1, 5, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    grid[0, :, 4:] *= 9
    points, colors = strongest_voxels(grid, placement.voxel_centers(grid.shape[-1]), 8192)
    assert len(points) == len(colors) == 51
    assert (points[:, 2] >= 3).all()
    assert colors.min() == 0
    assert colors.max() == 1
    assert len(strongest_voxels(torch.zeros(1, 5, 4, 4, 4), placement.voxel_centers(4), 8192)[0]) == 0


def test_grid_scalars():
    grid, before = torch.zeros(1, 2, 2, 2, 2), torch.zeros(1, 2, 2, 2, 2)
    grid[0, 0, 0, 0] = 4.0  # two voxels of eight
    gates = (torch.full((1, 1, 2, 2, 2), 0.25), torch.full((1, 1, 2, 2, 2), 0.75))
    values = {name: value.item() for name, value in grid_scalars(grid, before, gates).items()}
    assert values == {
        "mean": 0.5, "std": pytest.approx(1.75**0.5), "zero_voxels": 0.75, "change_norm": pytest.approx(32**0.5),
        "update_gate": 0.25, "reset_gate": 0.75,
    }  # fmt: skip
