"""Faults during training lose only the steps since the last checkpoint, and resuming repeats them exactly."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dv.checkpoint import read_checkpoint
from faults import assert_equal_runs, children, has_ended, read_weights, saved_steps, start_training, wait_for

LONG = ["trainer.max_steps=100000", "trainer.save_every_steps=3", "trainer.validate_every_steps=100000"]


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "processes"), [("l1", 1), ("l1_gan", 1), ("l1", 2), ("l1_gan", 2)])
def test_killed_and_resumed_equals_uninterrupted(command, ball_overrides, tmp_path, loss, processes):
    """SIGKILL to all processes at a random moment, then SIGTERM after resuming, then the same command again."""
    base = [*ball_overrides, f"loss={loss}", f"trainer.processes={processes}", "trainer.max_steps=14", "loss.border=4"]
    base += ["optimizer.schedule=cosine", "trainer.save_every_steps=2", "model.renderer_dropout=0.2"]
    killed, uninterrupted = tmp_path / "killed", tmp_path / "uninterrupted"
    process = start_training(killed, *base)
    wait_for(lambda: saved_steps(killed) >= 2, process)
    time.sleep(float(torch.rand(1)))
    victims = [process.pid, *children(process.pid)]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode in (-signal.SIGKILL, 0)
    reached = saved_steps(killed)
    assert reached >= 2

    process = start_training(killed, *base, "resume=auto")
    wait_for(lambda: saved_steps(killed) > reached or saved_steps(killed) == 14, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    if process.returncode == -signal.SIGTERM:  # the signal came after the last step
        assert saved_steps(killed) == 14, err
    elif process.returncode:
        assert process.returncode == 128 + signal.SIGTERM, err
        assert "resume=auto" in err
        assert err.count("error:") == 1
    assert all(has_ended(pid) for pid in victims)
    for run, extra in ((killed, ["resume=auto"]), (uninterrupted, [])):
        process = start_training(run, *base, *extra)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    assert_equal_runs(killed, uninterrupted)


def test_the_death_of_one_rank_ends_the_others_within_seconds(ball_overrides, tmp_path):
    process = start_training(tmp_path / "run", *ball_overrides, *LONG, "loss=l1", "trainer.processes=2")
    wait_for(lambda: saved_steps(tmp_path / "run") > 0, process)
    ranks = children(process.pid)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 20
    assert process.returncode == 1
    assert "error:" in err
    assert all(has_ended(pid) for pid in ranks)
    read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "failed"


@pytest.mark.slow
def test_ranks_end_when_their_parent_is_killed(ball_overrides, tmp_path):
    process = start_training(tmp_path / "run", *ball_overrides, *LONG, "loss=l1", "trainer.processes=2")
    wait_for(lambda: saved_steps(tmp_path / "run") > 0, process)
    ranks = children(process.pid)
    process.kill()
    deadline = time.monotonic() + 20
    while not all(has_ended(pid) for pid in ranks):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")


def test_an_error_in_all_ranks_is_shown_once(command, ball_overrides, tmp_path):
    result = command("train", *ball_overrides, "loss=l1", "trainer.processes=2", "optimizer.learning_rate=1e30",
                     "trainer.max_steps=50", "trainer.save_every_steps=1")  # fmt: skip
    assert result.code == 1
    errors = [line for line in result.err.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert "is not a finite number at step" in errors[0]
    assert "last.ckpt" in errors[0]
    assert "Traceback" not in result.err


def test_two_trainings_do_not_share_a_folder(ball_overrides, tmp_path, command, monkeypatch):
    monkeypatch.setattr("dv.tasks.resume.LOCK_TIMEOUT", 0.5)
    process = start_training(tmp_path / "run", *ball_overrides, *LONG, "loss=l1")
    wait_for(lambda: (tmp_path / "run" / ".lock").is_file(), process)
    time.sleep(0.5)
    result = command("train", *ball_overrides, "loss=l1", f"hydra.run.dir={tmp_path / 'run'}")
    process.kill()
    process.communicate()
    assert result.code == 1
    assert f"is in use by the training of process {process.pid}" in result.err


@pytest.mark.parametrize("damage", ["truncated", "empty", "other", "absent"])
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(
    command, ball_overrides, trained, tmp_path, damage, caplog
):
    run = tmp_path / "run"
    base = [*ball_overrides, "loss=l1", "trainer.save_every_steps=1", "trainer.max_steps=3"]
    assert command("train", *base).code == 0
    last, before = run / "checkpoints" / "last.ckpt", read_checkpoint(run / "checkpoints" / "previous.ckpt").step
    expected = read_weights(last)
    if damage == "absent":
        last.unlink()
    elif damage == "other":
        last.write_text("not a checkpoint")
    else:
        last.write_bytes(last.read_bytes()[: 0 if damage == "empty" else 30_000])
    (run / "run.json").unlink()  # as if the run had been killed at the end
    result = command("train", *base, "resume=auto")
    assert result.code == 0, result.err
    output = result.out + result.err + caplog.text
    assert f"going on from {run / 'checkpoints' / 'previous.ckpt'} (step {before})" in output or "best.ckpt" in output
    assert "last.ckpt" in output
    assert all(torch.equal(value, expected[key]) for key, value in read_weights(last).items())


def test_resuming_without_a_usable_checkpoint_is_refused(command, ball_overrides, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    for name in ("last", "previous", "best"):
        (folder / f"{name}.ckpt").write_text("damaged")
    result = command("train", *ball_overrides, "loss=l1", "resume=auto")
    assert result.code == 1
    assert "no checkpoint can be used" in result.err
    assert "start from scratch without resume" in result.err


@pytest.mark.parametrize("processes", [1, 2])
def test_a_nonfinite_gradient_does_not_reach_the_weights(ball_overrides, tmp_path, processes):
    """One gradient of one rank gets a NaN at step 3."""
    inject = tmp_path / "sitecustomize.py"
    inject.write_text(
        "import sys\n"
        "from importlib.abc import MetaPathFinder\n"
        "class Inject(MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name != 'dv.lightning.shared_state':\n"
        "            return None\n"
        "        sys.meta_path.remove(self)\n"
        "        import os\n"
        "        import torch\n"
        "        from dv.model import DeepVoxels\n"
        "        original = DeepVoxels.__init__\n"
        "        def build(model, *arguments, **settings):\n"
        "            original(model, *arguments, **settings)\n"
        "            calls = []\n"
        "            def poison(gradient):\n"
        "                calls.append(None)\n"
        "                if len(calls) == 4 and os.environ.get('RANK', '1') == '1':\n"
        "                    gradient = gradient.clone()\n"
        "                    gradient[(0,) * gradient.dim()] = float('nan')\n"
        "                return gradient\n"
        "            next(model.renderer.parameters()).register_hook(poison)\n"
        "        DeepVoxels.__init__ = build\n"
        "        return None\n"
        "sys.meta_path.insert(0, Inject())\n"
    )
    run = tmp_path / "run"
    base = [*ball_overrides, *LONG, "loss=l1", f"trainer.processes={processes}", "trainer.save_every_steps=1"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    command = [sys.executable, "-m", "dv.tasks.train", *base, f"hydra.run.dir={run}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert "the gradient of " in errors[0]
    assert "at step 3" in errors[0]
    checkpoint = read_checkpoint(run / "checkpoints" / "last.ckpt")
    assert checkpoint.step == 3
    assert all(torch.isfinite(value).all() for value in checkpoint.model_state.values())


@pytest.fixture
def small_disk(tmp_path):
    """Return `mount(options)`, which mounts a separate file system or skips the test where that is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "dv", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk_keeps_the_last_good_checkpoint(ball_overrides, tmp_path, small_disk, processes):
    disk = small_disk("size=40m")
    base = [*ball_overrides, *LONG, "loss=l1", f"trainer.processes={processes}"]
    process = start_training(disk / "run", *base)
    wait_for(lambda: (disk / "run" / "checkpoints" / "previous.ckpt").is_file(), process)
    with (disk / "filler").open("wb") as filler:  # fill the rest of the disk
        try:
            while True:
                filler.write(bytes(2**16))
                filler.flush()
        except OSError:
            pass  # full, as intended
    _, err = process.communicate(timeout=90)
    assert process.returncode == 1, err
    assert "No space left" in err or "cannot write" in err
    assert "Traceback" not in err
    (disk / "filler").unlink()
    reached = saved_steps(disk / "run")
    assert reached > 0
    process = start_training(
        disk / "run", *[a for a in base if "max_steps" not in a], f"trainer.max_steps={reached + 2}", "resume=auto"
    )
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert saved_steps(disk / "run") == reached + 2


def test_a_read_only_folder_gives_one_line(ball_overrides, small_disk):
    disk = small_disk("ro")
    process = start_training(disk / "run", *ball_overrides, "loss=l1")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert "Read-only file system" in lines[0]


def test_the_death_of_a_loader_worker_gives_one_line(ball_overrides, tmp_path):
    run = tmp_path / "run"
    process = start_training(run, *ball_overrides, *LONG, "loss=l1", "data.workers=2")
    wait_for(lambda: saved_steps(run) > 0, process)
    workers = [pid for pid in children(process.pid) if not has_ended(pid)]
    assert workers
    os.kill(workers[0], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "Traceback" not in err
    assert "worker" in err.splitlines()[-1]
    assert "resume=auto" in err.splitlines()[-1]
    assert saved_steps(run) > 0
    shutil.rmtree(run)
