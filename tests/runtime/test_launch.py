"""Ranks that torchrun or SLURM starts share one folder and one log, as ranks that train.py starts do."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dv.config.train import OptimizerConfig
from dv.lightning.schedule import scaled_learning_rate
from faults import assert_equal_runs

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
RUN_FILES = {".hydra", ".lock", "checkpoints", "config.yaml", "metrics.csv", "pictures", "run.json", "train.log"}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def assert_complete(run: Path, ranks: int) -> None:
    assert {path.name for path in run.iterdir()} == RUN_FILES
    record = json.loads((run / "run.json").read_text())
    assert (record["state"], record["ranks"]) == ("finished", ranks)
    assert (run / "train.log").read_text().count("training ball in") == 1


@pytest.mark.slow
def test_torchrun_equals_trainer_processes_in_a_sweep(command, ball_overrides, tmp_path):
    base = [*ball_overrides, "loss=l1", "trainer.processes=2", "seed=0,1"]
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    start = [*TORCHRUN, "--nproc-per-node=2", f"--master-port={free_port()}", "-m", "dv.tasks.train", "-m", *base]
    done = subprocess.run([*start, f"hydra.sweep.dir={theirs}"], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert command("train", "-m", *base, f"hydra.sweep.dir={ours}").code == 0
    for job in ("0", "1"):
        assert_complete(theirs / job, ranks=2)
        assert_equal_runs(theirs / job, ours / job)
    assert sorted(path.name for path in theirs.iterdir()) == ["0", "1", "multirun.yaml"]


@pytest.mark.slow
def test_two_nodes_are_one_training(ball_overrides, tmp_path):
    run, endpoint = tmp_path / "run", f"--rdzv-endpoint=127.0.0.1:{free_port()}"
    nodes = [
        subprocess.Popen(
            [*TORCHRUN, "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", endpoint, "--rdzv-id=dv",
             "-m", "dv.tasks.train", *ball_overrides, "loss=l1", "trainer.nodes=2", f"hydra.run.dir={run}"],
            stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    errors = [node.communicate(timeout=500)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], errors
    assert_complete(run, ranks=2)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [False, True])
def test_srun_starts_the_ranks_of_one_training(ball_overrides, tmp_path, fault):
    """The processes get the environment variables that srun sets."""
    run, port = tmp_path / "run", str(free_port())
    slurm = {"SLURM_JOB_ID": "4242", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_NNODES": "1",
             "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "0", "SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": port,
             "MASTER_ADDR": "127.0.0.1"}  # fmt: skip
    arguments = [*ball_overrides, "loss=l1", "trainer.processes=2", f"hydra.run.dir={run}"] + ["data.skip=100"] * fault
    tasks = [
        subprocess.Popen(
            [sys.executable, "-m", "dv.tasks.train", *arguments], stderr=subprocess.PIPE, text=True,
            env=os.environ | slurm | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    errors = [task.communicate(timeout=500)[1] for task in tasks]
    if fault:
        assert all(task.returncode for task in tasks)
        assert sum("training views are left" in error for error in errors) == 1
        assert "Traceback" not in "".join(errors)
    else:
        assert [task.returncode for task in tasks] == [0, 0], errors
        assert_complete(run, ranks=2)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trainer.nodes=2"], "torchrun --nnodes=2 --nproc-per-node=1"),
        (["trainer.processes=0"], "trainer.processes=0 must be a whole number of at least 1"),
        (["data.batch_size=0"], "data.batch_size=0 must be a whole number of at least 1"),
        (["optimizer.batch_scaling=double"], "optimizer.batch_scaling=double must be none, sqrt or linear"),
        (["sweep=optuna"], "start it with python train.py -m"),
    ],
)
def test_invalid_settings_give_one_line(command, ball_overrides, arguments, expected):
    result = command("train", *ball_overrides, "loss=l1", *arguments)
    assert result.code == 1
    assert expected in result.err
    assert "Traceback" not in result.err


def test_learning_rates_grow_with_the_samples_per_step():
    configs = [OptimizerConfig(1e-3, 1e-3, name, "constant", 0, 0.02) for name in ("none", "sqrt", "linear")]
    rates = [scaled_learning_rate(config, 1e-3, 4) for config in configs]
    assert rates == pytest.approx([1e-3, 2e-3, 4e-3])
