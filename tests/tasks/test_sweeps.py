"""Sweeps through train.py: serial, with joblib, Ray, a substitute for SLURM and Optuna; interrupted and resumed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from dv.checkpoint import read_checkpoint
from dv.tasks.command_line import resume_sweep
from faults import assert_equal_runs, children, has_ended, saved_steps, wait_for

RUN_FILES = ["checkpoints/last.ckpt", "checkpoints/best.ckpt", "config.yaml", "metrics.csv", "run.json", "train.log"]


def sweep(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dv.tasks.train", "-m", *arguments, f"hydra.sweep.dir={folder}"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finished(folder: Path) -> list[int]:
    records = {int(p.parent.name): json.loads(p.read_text()) for p in folder.glob("*/run.json")}
    return sorted(number for number, record in records.items() if record["state"] == "finished")


def kill_sweep(process: subprocess.Popen[str]) -> None:
    """Send SIGKILL to the sweep alone and wait until its workers end, too."""
    workers = children(process.pid)
    process.kill()
    process.communicate(timeout=30)
    deadline = time.monotonic() + 40
    while not all(has_ended(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers outlive their sweep"
        time.sleep(0.1)


def test_a_sweep_has_one_folder_per_job_and_continues_after_a_failed_job(command, ball_overrides, tmp_path):
    folder = tmp_path / "sweep"
    result = command("train", "-m", *ball_overrides, "loss=l1", "grid.features=4,0,5", f"hydra.sweep.dir={folder}")
    assert result.code == 1
    assert sorted(p.name for p in folder.iterdir()) == ["0", "1", "2", "multirun.yaml"]
    assert finished(folder) == [0, 2]
    assert f"error: job 1 ({folder / '1'}): grid.features=0 must be a whole number" in result.err
    assert "rerun the same command with resume=auto to run the remaining jobs" in result.err.splitlines()[-1]
    for job in ("0", "2"):
        assert all((folder / job / name).is_file() for name in RUN_FILES)
        assert (folder / job / "train.log").read_text().count("training ball in") == 1


@pytest.mark.slow
def test_a_sweep_on_several_processes_continues_after_failed_jobs(command, ball_overrides, tmp_path):
    """A failed job ends its ranks, is reported once and does not stop the next job."""
    folder = tmp_path / "sweep"
    arguments = [
        *ball_overrides,
        "trainer.processes=2",
        "loss=l1",
        "grid.features=4,3",
        "optimizer.learning_rate=1e-3,1e30",
    ]
    result = command("train", "-m", *arguments, "trainer.max_steps=12", f"hydra.sweep.dir={folder}")
    assert result.code == 1
    assert sorted(p.name for p in folder.iterdir()) == ["0", "1", "2", "3", "multirun.yaml"]
    assert finished(folder) == [0, 2]
    assert re.findall(r"error: job (\d) .*not a finite number", result.err) == ["1", "3", "1"]  # 1 again in the summary
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sweep"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["serial", "joblib"])
def test_a_killed_sweep_resumes_to_the_results_of_an_uninterrupted_one(ball_overrides, tmp_path, launcher):
    base = [
        *ball_overrides,
        "loss=l1",
        "grid.features=3,4",
        "seed=0,1",
        "trainer.max_steps=40",
        "trainer.save_every_steps=2",
    ]
    base += [] if launcher == "serial" else ["launcher=joblib", "hydra.launcher.n_jobs=2"]
    killed, uninterrupted = tmp_path / "killed", tmp_path / "uninterrupted"
    for done in (0, 2):
        process = sweep(killed, *base, "resume=auto")
        wait_for(lambda done=done: len(finished(killed)) >= done and any(
            0 < saved_steps(job) < 40 for job in killed.glob("[0-9]")), process)  # fmt: skip
        time.sleep(float(torch.rand(1)) / 2)
        kill_sweep(process)
    before = {job: (killed / str(job) / "run.json").stat().st_mtime_ns for job in finished(killed)}
    for folder in (killed, uninterrupted):
        process = sweep(folder, *base, *(["resume=auto"] if folder == killed else []))
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0, out
    assert finished(killed) == finished(uninterrupted) == [0, 1, 2, 3]
    assert all((killed / str(job) / "run.json").stat().st_mtime_ns == when for job, when in before.items())
    for job in range(4):
        assert_equal_runs(killed / str(job), uninterrupted / str(job))


@pytest.mark.slow
def test_an_idle_worker_ends_with_its_sweep(ball_overrides, tmp_path):
    folder = tmp_path / "sweep"
    process = sweep(
        folder, *ball_overrides, "loss=l1", "trainer.max_steps=2,100000", "launcher=joblib", "hydra.launcher.n_jobs=2"
    )
    wait_for(lambda: finished(folder) == [0] and saved_steps(folder / "1") > 0, process)
    kill_sweep(process)


def test_resume_without_a_folder_finds_the_newest_sweep_of_the_same_command(tmp_path):
    def write_sweep(name: str, *task: str, when: int) -> None:
        (tmp_path / name).mkdir()
        hydra = ["hydra.mode=MULTIRUN", *(["hydra.sweep.dir=b"] if "resume=auto" in task else [])]  # already resumed
        record = {"hydra": {"overrides": {"task": list(task), "hydra": hydra}}}
        OmegaConf.save(OmegaConf.create(record), tmp_path / name / "multirun.yaml")
        os.utime(tmp_path / name / "multirun.yaml", (when, when))

    write_sweep("a", "grid='16','32'", "loss=l1", when=1)
    write_sweep("b", "grid='16','32'", "loss=l1", "resume=auto", when=2)
    write_sweep("c", "grid='16'", "loss=l1", when=3)
    (tmp_path / "single").mkdir()  # sweep of a study, which runs without -m
    study = {"hydra": {"overrides": {"task": ["experiment=study_views"], "hydra": []}}}
    OmegaConf.save(OmegaConf.create(study), tmp_path / "single" / "multirun.yaml")
    study_command = ["experiment=study_views", "resume=auto"]
    assert resume_sweep(study_command, "train", tmp_path) == [*study_command, f"hydra.sweep.dir={tmp_path / 'single'}"]
    command = ["-m", "grid='16','32'", "loss=l1", "resume=auto"]
    assert resume_sweep(command, "train", tmp_path) == [*command, f"hydra.sweep.dir={tmp_path / 'b'}"]
    assert resume_sweep(command[:-1], "train", tmp_path) == command[:-1]
    assert resume_sweep([*command, "seed=3"], "train", tmp_path) == [*command, "seed=3"]
    given = [*command, "hydra.sweep.dir=elsewhere"]
    assert resume_sweep(given, "train", tmp_path) == given


def test_resuming_in_the_folder_of_another_sweep_is_refused(command, ball_overrides, tmp_path):
    folder = f"hydra.sweep.dir={tmp_path / 'sweep'}"
    base = ["-m", *ball_overrides, "loss=l1", "resume=auto", folder]
    assert command("train", *base, "optimizer.learning_rate=1e-3").code == 0
    result = command("train", *base, "optimizer.learning_rate=2e-3")
    assert result.code == 1
    assert "holds a run of another sweep, with optimizer.learning_rate=0.001; use another hydra.sweep.dir" in result.err
    assert command("train", *base, "optimizer.learning_rate=1e-3").code == 0


@pytest.mark.slow
def test_ray_runs_the_jobs_of_a_sweep(ball_overrides, tmp_path):
    process = sweep(tmp_path / "sweep", *ball_overrides, "loss=l1,l1_gan", "loss.border=4", "launcher=ray")
    out, _ = process.communicate(timeout=500)
    assert process.returncode == 0, out
    assert finished(tmp_path / "sweep") == [0, 1]
    assert sorted(p.name for p in (tmp_path / "sweep").iterdir()) == ["0", "1", "multirun.yaml"]


@pytest.mark.slow
def test_a_preempted_slurm_job_is_requeued_and_resumes(ball_overrides, tmp_path):
    """Submitit's local executor replaces SLURM: it signals, requeues and starts jobs in the same way."""
    folder = tmp_path / "sweep"
    base = [
        *ball_overrides,
        "loss=l1",
        "seed=0,1",
        "resume=auto",
        "trainer.max_steps=40",
        "trainer.picture_every_steps=1",
    ]
    base += ["hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=1", "trainer.save_every_steps=100000"]
    base += ["+hydra.job.env_set.OMP_NUM_THREADS='1'"]  # two jobs with two threads each would wait for each other
    process = sweep(folder, *base)
    wait_for(lambda: all(any((folder / job / "pictures").glob("*")) for job in ("0", "1")), process)
    for job in ("0", "1"):
        os.kill(int((folder / job / ".lock").read_text()), signal.SIGUSR2)
    out, _ = process.communicate(timeout=500)
    assert process.returncode == 0, out
    assert finished(folder) == [0, 1]
    for job in ("0", "1"):
        assert (folder / job / "train.log").read_text().count("training ball in") == 2
        assert read_checkpoint(folder / job / "checkpoints" / "last.ckpt").step == 40


SEARCH = ["sweep=optuna", "optimizer.learning_rate=tag(log,interval(1e-5,1e-1))", "grid.features=3,4",
          "hydra.sweeper.trials=6", "trial.pruner.n_startup_trials=2", "loss=l1"]  # fmt: skip


def trials(folder: Path) -> list[tuple[str, float, dict[str, object]]]:
    import optuna

    study = optuna.load_study(study_name="dv", storage=f"sqlite:///{folder / 'study.db'}")
    return [(t.state.name, t.value, dict(t.params)) for t in study.trials]


@pytest.mark.slow
def test_a_search_prunes_and_resumes_to_the_same_trials(command, ball_overrides, tmp_path):
    base = [*ball_overrides, *SEARCH, "trainer.max_steps=6"]
    killed, uninterrupted = tmp_path / "killed", tmp_path / "uninterrupted"
    result = command("train", "-m", *base, f"hydra.sweep.dir={uninterrupted}")
    assert result.code == 0, result.err
    expected = trials(uninterrupted)
    states = [state for state, _, _ in expected]
    assert len(states) == 6
    assert "PRUNED" in states
    assert states.count("COMPLETE") >= 2
    best = OmegaConf.load(uninterrupted / "search.yaml")
    assert best.value == max(value for state, value, _ in expected if state == "COMPLETE")
    assert best.folder == str(uninterrupted / best.folder.rsplit("/", 1)[1])
    steps_per_trial = [json.loads((uninterrupted / str(i) / "run.json").read_text())["steps"] for i in range(6)]
    pruned = [i for i, count in enumerate(steps_per_trial) if count < 6]
    assert pruned == [i for i, state in enumerate(states) if state == "PRUNED"]

    process = sweep(killed, *base, "resume=auto")
    wait_for(lambda: len(finished(killed)) >= 2, process)
    kill_sweep(process)
    result = command("train", "-m", *base, "resume=auto", f"hydra.sweep.dir={killed}")
    assert result.code == 0, result.err
    assert trials(killed) == expected
    again = command("train", "-m", *base, "resume=auto", f"hydra.sweep.dir={killed}")
    assert again.code == 0
    assert trials(killed) == expected


def test_a_search_over_whole_numbers_and_steps(tmp_path):
    import optuna
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from hydra_plugins.dv_optuna import OptunaSweeper

    overrides = OverridesParser.create().parse_overrides(
        ["a=int(interval(1,4))", "b=range(2,11,3)", "c=choice(x,y)", "d=fixed", "e=interval(0.5,1)"]
    )
    study = optuna.create_study()
    for _ in range(20):
        trial = study.ask()
        chosen = dict(OptunaSweeper._sample_override(trial, override).split("=") for override in overrides)
        assert chosen["a"] in {"1", "2", "3", "4"}
        assert chosen["b"] in {"2", "5", "8"}
        assert chosen["c"] in {"x", "y"}
        assert chosen["d"] == "fixed"
        assert 0.5 <= float(chosen["e"]) <= 1
        study.tell(trial, 0.0)
