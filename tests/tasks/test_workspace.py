"""The W&B workspace in the form in which it is saved."""

import json
import sys

import pytest

from dv.tasks import workspace as module


@pytest.mark.filterwarnings("ignore:Pydantic V1 style")
def test_workspace_shows_the_logged_values():
    pytest.importorskip("wandb_workspaces")
    spec = json.loads(module.workspace("me", "dv")._to_model().spec.model_dump_json(by_alias=True))
    sections = {section["name"]: section["panels"] for section in spec["section"]["panelBankConfig"]["sections"]}
    assert list(sections) == ["val", "runs", "train", "grid", "time"]
    kinds = {name: [panel["viewType"] for panel in panels] for name, panels in sections.items()}
    assert kinds["val"][:2] == ["Run History Line Plot"] * 2
    assert [panel["config"]["xAxis"] for panel in sections["val"][:2]] == ["trainer/global_step", "time/elapsed"]
    assert kinds["runs"][0] == "Parallel Coordinates Plot"
    assert sections["runs"][0]["config"]["columns"][-1]["accessor"] == "summary:val/best_psnr"
    for name in ("train", "grid", "time"):
        shown = [metric for panel in sections[name] for metric in panel["config"].get("metrics", [])]
        assert shown
        assert all(metric.startswith(f"{name}/") for metric in shown)
    (runs,) = spec["section"]["runSets"]
    assert "group" in json.dumps(runs["grouping"])


@pytest.mark.parametrize("arguments", [[], ["project=dv"], ["entity=me", "colour=1"]])
def test_missing_entity_or_unknown_argument_prints_the_usage(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["workspace", *arguments])
    with pytest.raises(SystemExit):
        module.main()
    assert capsys.readouterr().err.startswith("error: usage: python -m dv.tasks.workspace entity=NAME")
