"""Names of W&B runs; their contents are tested in tests/lightning/test_loggers.py."""

from dataclasses import replace

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from conftest import compose_config
from dv.tasks.wandb_results import named_logger


@pytest.fixture(scope="module")
def settings():
    return compose_config("train", "logger=wandb", "logger.not_in_run_name=[seed]").logger


@pytest.fixture
def job(monkeypatch):
    """Pretend to be a Hydra job."""

    def pretend(mode, overrides):
        hydra = {"mode": mode, "job": {"override_dirname": overrides}, "sweep": {"dir": "outputs/sweep/2026-01-01"}}
        monkeypatch.setattr(HydraConfig.instance(), "cfg", OmegaConf.create({"hydra": hydra}))

    return pretend


def test_a_job_of_a_sweep_is_named_by_the_overrides_that_change_its_result(job, settings, tmp_path):
    overrides = "+trainer.max_time=00:00:01:00,data.background=[0,10,255],grid=16,logger.mode=offline,object.root=/a"
    job(RunMode.MULTIRUN, f"{overrides},resume=auto,seed=3,trainer.gpus=4,launcher=joblib,trainer.progress_bar=false")
    named = named_logger(settings, tmp_path)
    assert named.run_name == "+trainer.max_time=00:00:01:00,data.background=[0,10,255],grid=16"
    assert named.group == "2026-01-01"
    named = named_logger(replace(settings, run_name="mine", group="ours"), tmp_path)
    assert (named.run_name, named.group) == ("mine", "ours")


def test_a_job_without_such_overrides_has_the_name_of_its_folder(job, settings, tmp_path):
    job(RunMode.MULTIRUN, "object.root=/a,logger=wandb")
    assert named_logger(settings, tmp_path / "3").run_name == "3"


def test_a_single_run_is_named_by_the_logger(job, settings, tmp_path):
    job(RunMode.RUN, "grid=16")
    assert named_logger(settings, tmp_path) == settings
