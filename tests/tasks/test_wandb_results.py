"""Names of W&B runs; what they show is tested in tests/lightning/test_loggers.py."""

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from dv.errors import UserError
from dv.tasks.wandb_results import named

SETTINGS = {"run_name": None, "group": None, "trajectory": None, "not_in_run_name": ["resume", "object.root"]}


@pytest.fixture
def job(monkeypatch):
    """Pretend to be a Hydra job; ranks of a job have its mode as a string."""

    def pretend(mode, overrides):
        of_hydra = {"mode": mode, "job": {"override_dirname": overrides}, "sweep": {"dir": "outputs/sweep/2026-01-01"}}
        monkeypatch.setattr(HydraConfig.instance(), "cfg", OmegaConf.create({"hydra": of_hydra}))

    return pretend


@pytest.mark.parametrize("mode", [RunMode.MULTIRUN, "MULTIRUN"])
def test_a_job_of_a_sweep_has_the_name_of_its_overrides(job, tmp_path, mode):
    job(
        mode,
        "+trainer.max_time=00:00:01:00,data.background=[0,10,255],grid=16,logger.mode=offline,object.root=/a,resume=auto",
    )
    settings = named(SETTINGS, tmp_path)
    assert settings["run_name"] == "+trainer.max_time=00:00:01:00,data.background=[0,10,255],grid=16"
    assert settings["group"] == "2026-01-01"
    assert named(SETTINGS | {"run_name": "mine", "group": "ours"}, tmp_path)["run_name"] == "mine"
    assert named(SETTINGS | {"run_name": "mine", "group": "ours"}, tmp_path)["group"] == "ours"


def test_a_job_that_is_all_where_and_how_has_the_name_of_its_folder(job, tmp_path):
    job(RunMode.MULTIRUN, "object.root=/a,logger=wandb")
    assert named(SETTINGS, tmp_path / "3")["run_name"] == "3"


def test_a_single_run_is_named_by_the_logger(job, tmp_path):
    job(RunMode.RUN, "grid=16")
    assert named(SETTINGS, tmp_path) == SETTINGS


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"trajectory": "loop"}, r"logger\.trajectory=loop must be spiral, orbit or null"),
        ({"trajectory": "orbit", "frames": 1}, r"logger\.frames=1 must be a whole number of at least 2"),
    ],
)
def test_a_trajectory_that_is_none_is_refused(tmp_path, settings, expected):
    with pytest.raises(UserError, match=expected):
        named(SETTINGS | settings, tmp_path)
