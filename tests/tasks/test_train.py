"""Training through the entry point: what a run writes, how it resumes, stops and fails."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from conftest import TINY, TINY_RADIANCE, step_overrides, write_object
from dv.checkpoint import read_checkpoint
from faults import read_weights

PARITY = Path(__file__).parents[1] / "parity"


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("loss", "model"), [("l1_gan", "deepvoxels"), ("l1", "no_occlusion")])
def test_a_run_writes_checkpoints_metrics_config_and_images(command, ball_overrides, tmp_path, loss, model):
    result = command("train", *ball_overrides, f"loss={loss}", f"model={model}", "grid.feature_side=32")
    assert result.code == 0, result.err
    run = tmp_path / "run"
    for name in ("checkpoints/last.ckpt", "checkpoints/best.ckpt", "config.yaml", "pictures/views_0000004.png"):
        assert (run / name).is_file(), name
    assert (run / "pictures" / "gates_0000004.png").is_file()
    columns = rows(run)[0].keys()
    expected = {"train/loss/l1", "train/psnr", "val/psnr", "val/ssim", "time/step", "train/learning_rate/generator"}
    assert expected | {"train/range/output_min", "train/range/target_max"} <= columns
    assert ("train/loss/discriminator" in columns) == (loss == "l1_gan")
    # max_steps counts batches, with two networks as with one
    assert [int(r["step"]) for r in rows(run) if r["train/psnr"]] == [0, 1, 2, 3]
    checkpoint = read_checkpoint(run / "checkpoints" / "last.ckpt")
    assert checkpoint.step == 4
    assert checkpoint.config["object"]["name"] == "ball"
    assert checkpoint.placement.near == 0.73
    assert checkpoint.model_state["grid"].any()


@pytest.mark.parametrize("model", [TINY, TINY_RADIANCE])
def test_every_third_step_is_logged_after_resuming_too(command, ball, tmp_path, model):
    arguments = ["object=custom", f"object.root={ball}", "object.name=ball", *model, *step_overrides(4)]
    for steps, more in ((4, []), (8, ["resume=auto"])):
        result = command("train", *arguments, f"trainer.max_steps={steps}", "trainer.log_every_steps=3", *more)
        assert result.code == 0, result.err
    for column in ("train/psnr", "time/step"):
        assert [int(r["step"]) for r in rows(tmp_path / "run") if r[column]] == [2, 5], column


def test_training_learns(command, ball_overrides, tmp_path):
    result = command("train", *ball_overrides, "loss=l1", *step_overrides(60), "optimizer.learning_rate=2e-3")
    assert result.code == 0, result.err
    losses = [float(r["train/loss/l1"]) for r in rows(tmp_path / "run") if r["train/loss/l1"]]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_every_part_of_the_network_is_trained(command, ball_overrides, tmp_path):
    command("train", *ball_overrides, "loss=l1_gan", "trainer.max_steps=1", "loss.border=4")
    moments = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]["state"]
    moved = sum(bool(m["exp_avg"].any()) for m in moments.values())
    assert moved > 0.95 * len(moments)  # a ReLU may switch off a channel of such a small network


@pytest.fixture(scope="module")
def uninterrupted_run(ball, tmp_path_factory):
    """Return a function that trains 6 steps without interruption, once per loss, and returns the run folder."""
    runs = {}

    def run(command, arguments, loss):
        if loss not in runs:
            runs[loss] = tmp_path_factory.mktemp("uninterrupted") / loss
            assert command("train", *arguments, f"hydra.run.dir={runs[loss]}").code == 0
        return runs[loss]

    return run


@pytest.mark.parametrize(("loss", "stop"), [("l1", 1), ("l1", 2), ("l1_gan", 3), ("l1_gan", 4), ("l1", 5)])
def test_a_resumed_run_equals_an_uninterrupted_one(
    command, ball_overrides, tmp_path, uninterrupted_run, loss, stop, monkeypatch
):
    base = [*ball_overrides, f"loss={loss}", "optimizer.schedule=cosine", "trainer.max_steps=6"]
    uninterrupted, resumed = uninterrupted_run(command, base, loss), tmp_path / "resumed"
    from dv.lightning.callbacks import LastCheckpoint

    original = LastCheckpoint.on_train_batch_start

    def interrupt(self, trainer, *rest):
        if trainer.global_step == stop:
            signal.raise_signal(signal.SIGINT)
        original(self, trainer, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "on_train_batch_start", interrupt)
        result = command("train", *base, f"hydra.run.dir={resumed}")
    assert result.code == 128 + signal.SIGINT
    assert f"interrupted at step {stop}; continue with the same command and hydra.run.dir={resumed}" in result.err
    result = command("train", *base, f"hydra.run.dir={resumed}", "resume=auto")
    assert result.code == 0, result.err
    for name in ("last", "best"):
        a, b = (
            read_weights(uninterrupted / f"checkpoints/{name}.ckpt"),
            read_weights(resumed / f"checkpoints/{name}.ckpt"),
        )
        assert a.keys() == b.keys()
        for key in a:
            assert torch.equal(a[key], b[key]), (name, key)
    for column in ("train/loss/l1", "train/psnr", "val/psnr"):  # the log continues where it stopped
        ours = [(r["step"], r[column]) for r in rows(resumed) if r[column]]
        assert ours == [(r["step"], r[column]) for r in rows(uninterrupted) if r[column]], column


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("seed=5", "was trained with seed=0, not 5; add seed=0"),
        ("loss=l1_gan", "has no discriminator; resume with its loss"),
        ("grid.features=5", "does not fit the configured model"),
    ],
)
def test_resume_with_another_configuration_is_refused(command, ball_overrides, trained, tmp_path, change, expected):
    changed = [a for a in ball_overrides if a.split("=")[0] != change.split("=")[0]]
    result = command(
        "train", *changed, *([] if change.startswith("loss") else ["loss=l1"]), change, f"resume={trained}"
    )
    assert result.code == 1
    assert expected in result.err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_numbers_of_other_types_are_no_other_run(command, ball, tmp_path):
    """A configuration may have had an object name or a fraction as an int."""
    for split in ("train", "validation", "test"):
        (tmp_path / "objects" / split).mkdir(parents=True)
        (tmp_path / "objects" / split / "7").symlink_to(ball / split / "ball")
    overrides = ["object=custom", f"object.root={tmp_path / 'objects'}", "object.name=7", *TINY_RADIANCE]
    overrides += ["model.view_from=0", "data.image_side=null"]
    assert command("train", *overrides).code == 0
    config = OmegaConf.load(tmp_path / "run" / "config.yaml")
    config.object.name, config.model.view_from = 7, 0
    OmegaConf.save(config, tmp_path / "run" / "config.yaml")
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["dv"]["config"]["object"]["name"], checkpoint["dv"]["config"]["model"]["view_from"] = 7, 0
    torch.save(checkpoint, path)
    result = command("train", *overrides, "resume=auto")
    assert "is finished" in result.out
    result = command("train", *overrides, "resume=auto", "trainer.max_steps=6")
    assert result.code == 0, result.err
    assert read_checkpoint(path).step == 6


def test_double_precision_trains(command, ball_overrides, tmp_path):
    result = command("train", *ball_overrides, "loss=l1", "trainer.precision=64-true")
    assert result.code == 0, result.err
    assert read_weights(tmp_path / "run/checkpoints/last.ckpt")["model.grid"].dtype == torch.float64


@pytest.fixture
def bf16_on_any_cpu(monkeypatch):
    """Allow bf16 even where the CPU has to emulate it."""
    for module in ("tasks.train", "rendering.restore"):
        monkeypatch.setattr(f"dv.{module}.supported_precision", lambda precision, _gpus: precision)


@pytest.mark.usefixtures("bf16_on_any_cpu")
def test_mixed_precision_trains_evaluates_and_renders(command, ball_overrides, tmp_path):
    result = command("train", *ball_overrides, "loss=l1_gan", "trainer.precision=bf16-mixed")
    assert result.code == 0, result.err
    checkpoint = f"ckpt={tmp_path / 'run/checkpoints/best.ckpt'}"
    done = command("render", checkpoint, "trainer.precision=bf16-mixed", "trajectory.frames=2")
    assert done.code == 0, done.err
    scores = []
    for precision in ("bf16-mixed", "32-true"):
        done = command("evaluate", checkpoint, f"trainer.precision={precision}")
        assert done.code == 0, done.err
        scores.append(json.loads((tmp_path / "run/metrics.json").read_text())["mean"]["psnr"])
    assert scores[0] != scores[1]
    assert abs(scores[0] - scores[1]) < 0.3


def test_a_cpu_without_bf16_computes_in_fp32_with_a_warning(command, ball_overrides, monkeypatch, caplog):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    result = command("train", *ball_overrides, "loss=l1", "trainer.precision=bf16-mixed")
    assert result.code == 0, result.err
    assert "no bf16 arithmetic" in result.out + result.err + caplog.text


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signals_leave_a_loadable_checkpoint(ball_overrides, tmp_path, signum):
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "dv.tasks.train", *ball_overrides, "trainer.max_steps=100000", "loss=l1",
         "trainer.save_every_steps=100000", "trainer.validate_every_steps=100000", "trainer.log_every_steps=1",
         f"hydra.run.dir={run}"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.time() + 300
    while not (run / "pictures").is_dir() and time.time() < deadline:  # some steps are done
        time.sleep(0.1)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signum, err
    assert "interrupted at step" in err
    assert "Traceback" not in err
    assert read_checkpoint(run / "checkpoints" / "last.ckpt").step > 0


def test_a_failed_write_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    from dv.checkpoint import write_checkpoint
    from dv.errors import UserError

    path = tmp_path / "last.ckpt"
    write_checkpoint({"a": torch.ones(3)}, path)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"cannot write .*last\.ckpt.*No space left"):
        write_checkpoint({"a": torch.zeros(3)}, path)
    monkeypatch.undo()
    assert torch.equal(torch.load(path, weights_only=True)["a"], torch.ones(3))
    assert list(tmp_path.iterdir()) == [path]


def test_nan_stops_the_training_and_names_the_last_good_checkpoint(command, ball_overrides, tmp_path):
    result = command("train", *ball_overrides, "optimizer.learning_rate=1e30", "trainer.max_steps=50")
    assert result.code == 1
    last = [line for line in result.err.splitlines() if line.startswith("error:")]
    assert len(last) == 1
    assert "not " in last[0]
    assert "at step" in last[0]
    assert "last good checkpoint is" in last[0]
    for path in (tmp_path / "run" / "checkpoints").glob("*.ckpt"):
        assert all(torch.isfinite(v).all() for v in read_weights(path).values() if v.is_floating_point())


def test_init_from_a_dv_checkpoint(command, ball, trained, tmp_path):
    base = ["object=custom", f"object.root={ball}", "object.name=ball", *TINY]
    first = command(
        "train", *base, "loss=l1", f"init_from={trained}", "trainer.max_steps=1", "optimizer.learning_rate=0"
    )
    assert first.code == 0, first.err
    ours = read_weights(tmp_path / "run/checkpoints/last.ckpt")
    original = read_weights(trained)
    assert torch.equal(ours["model.renderer.unet.in_layer.0.weight"], original["model.renderer.unet.in_layer.0.weight"])


@pytest.mark.parametrize("case", ["occlusion", "no_occlusion"])
def test_init_from_a_reference_checkpoint(command, tmp_path, case):
    root = write_object(tmp_path / "objects", side=64)
    model = "deepvoxels" if case == "occlusion" else "no_occlusion"
    result = command(
        "train", "object=custom", f"object.root={root}", "object.name=ball", "trainer=debug", "grid=16",
        "grid.features=4", "grid.feature_side=32", f"model={model}", "model.base_channels=4",
        f"init_from={PARITY / case / 'checkpoint.pth'}", "trainer.max_steps=1", "optimizer.learning_rate=0",
        "optimizer.discriminator_learning_rate=0",
    )  # fmt: skip
    assert result.code == 0, result.err
    reference = torch.load(PARITY / case / "checkpoint.pth", weights_only=True)
    ours = read_weights(tmp_path / "run/checkpoints/last.ckpt")
    assert torch.equal(ours["discriminator.layers.0.weight"], reference["discriminator"]["model.1.weight"])
    assert torch.equal(
        ours["model.integration.candidate_new.weight"], reference["model"]["integration_net.new_integration.1.weight"]
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trainer.gpus=7"], "trainer.gpus=7, but this machine has"),
        (["object.name=cat"], "no object at"),
        (["object=unicorn"], "object=unicorn: object must be one of chair, cube, custom"),
        (["data.image_side=48"], "data.image_side=48 must be a power of two"),
        (["data.image_side=64"], "smaller than data.image_side=64; use data.image_side=32"),
        (["grid.side=12"], "grid.side=12 must be a power of two"),
        (["grid.feature_side=64"], "must not be smaller than grid.feature_side=64"),
        (["loss=l1_gan", "loss.border=5"], "the discriminator needs 24: use loss=l1"),
        (["optimizer.schedule=wave"], "optimizer.schedule=wave must be constant, cosine"),
        (["init_from=nowhere.ckpt"], "nowhere.ckpt: no such file"),
        (["resume=nowhere.ckpt"], "nowhere.ckpt: no such file"),
        (["data.background=pink"], "data.background=pink must be white, grey, black or"),
        (["trainer.colour=1"], "colour"),
        (["trainer.max_steps=0"], "trainer.max_steps=0 must be a whole number of at least 1"),
        (["data.skip=-1"], "data.skip=-1 must be a whole number"),
        (["grid.side=abc"], "grid.side=abc must be a whole number"),
        (["trainer.precision=foo"], "trainer.precision=foo must be 32-true"),
        (["trainer.validation_views=0"], "trainer.validation_views=0"),
        (["trainer.gpus=many"], "trainer.gpus=many must be a whole number of at least 0 or auto"),
    ],
)
def test_bad_input_gives_one_line_and_writes_nothing(command, ball_overrides, tmp_path, arguments, expected):
    ball_overrides = [
        a for a in ball_overrides if a.split("=")[0] not in {x.split("=")[0] for x in arguments} or "loss" in a
    ]
    if any(a.startswith("object=") for a in arguments):
        ball_overrides = [a for a in ball_overrides if not a.startswith("object")]
    result = command("train", *ball_overrides, *arguments)
    assert result.code != 0
    lines = [line for line in result.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, result.err
    assert expected in lines[0]
    assert "Traceback" not in result.err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_checkpoint_that_does_not_fit_is_refused(command, ball_overrides, trained):
    result = command("train", *ball_overrides, "loss=l1", "grid.features=5", f"init_from={trained}")
    assert result.code == 1
    assert "does not fit the configured model" in result.err


def test_an_unwritable_output_folder_gives_one_line(command, ball_overrides, tmp_path):
    (tmp_path / "file").write_text("")
    result = command("train", *ball_overrides, f"hydra.run.dir={tmp_path / 'file' / 'run'}")
    assert result.code == 1
    assert result.err.count("error:") == 1
    assert "Traceback" not in result.err


def test_sweep_over_grid_and_loss(command, ball_overrides, tmp_path):
    sizes = [a for a in ball_overrides if not a.startswith("grid.side")]
    result = command("train", "-m", "grid=16,32", "loss=l1,l1_gan", *sizes, "trainer.max_steps=1",
                     f"hydra.sweep.dir={tmp_path / 'sweep'}")  # fmt: skip
    assert result.code == 0, result.err
    found = set()
    for i in range(4):
        config = read_checkpoint(tmp_path / "sweep" / str(i) / "checkpoints" / "last.ckpt").config
        found.add((config["grid"]["side"], config["loss"]["gan_weight"]))
    assert found == {(16, 0), (16, 1), (32, 0), (32, 1)}


def test_tensorboard_holds_scalars_and_images(command, ball_overrides, tmp_path):
    assert command("train", *ball_overrides, "loss=l1", "logger=tensorboard").code == 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert {"train/psnr", "val/psnr", "time/step"} <= set(events.Tags()["scalars"])
    assert {"views", "gates"} <= set(events.Tags()["images"])
