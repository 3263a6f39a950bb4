"""Every command of the README composes, and those that need neither GPUs nor days run at a tiny size."""

import re
import shlex
import signal
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from conftest import TINY
from dv.prepare.lens import Lens
from dv.tasks.command_line import quote_group_numbers
from photo_scene import poses_around, render_scene, write_jpeg

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
LINES = [line for block in BLOCKS for line in block.splitlines() if line.strip()]
COMMANDS = [line.split("#")[0].strip() for line in LINES if line.startswith("python ")]
PARITY = ROOT / "tests" / "parity" / "no_occlusion" / "checkpoint.pth"


def split(line: str) -> tuple[str, list[str]]:
    _, script, *arguments = shlex.split(line)
    return Path(script).stem, arguments


def test_readme_shows_every_command():
    assert {split(line)[0] for line in COMMANDS} == {
        "prepare",
        "train",
        "evaluate",
        "render",
        "view",
        "export",
        "report",
    }


@pytest.mark.parametrize("line", COMMANDS)
def test_command_composes(line):
    task, arguments = split(line)
    overrides = [a for a in quote_group_numbers(arguments, ROOT / "conf") if a != "-m" and not a.startswith("hydra.")]
    overrides = [re.sub(r"=([^,]+),.*", r"=\1", a) for a in overrides if "interval(" not in a]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert compose(task, overrides)


def prepare_arguments(command, arguments: list[str], ball: Path, tmp_path: Path) -> list[str]:
    """Return the arguments with which a `prepare.py` line of the README runs on tiny data."""
    small_object = [f"object.root={ball}", "object.name=ball", f"output_dir={tmp_path / 'made'}"]
    source = next(a.partition("=")[2] for a in arguments if a.startswith("source="))
    if source == "synthetic":
        return [f"object.root={tmp_path / 'made'}", "source.image_side=16", "source.train_views=2",
                "source.validation_views=1", "source.test_views=1", "source.samples_per_pixel=4"]  # fmt: skip
    if source in ("check", "export"):
        return small_object
    if source == "capture":
        lens = Lens(240, 240, 260, 260, 120, 120)
        for i, pose in enumerate(poses_around(10, arc=120)):
            write_jpeg(tmp_path / f"{i}.jpg", render_scene(pose, lens))
        return [f"source.path={tmp_path}", f"output_dir={tmp_path / 'made'}"]
    if source == "transforms":
        assert command("prepare", "source=export", "object=custom", *small_object).code == 0
        return [f"source.path={tmp_path / 'made'}", f"output_dir={tmp_path / 'again'}"]
    assert source == "folder"
    return [f"source.path={ball}", "source.object=ball", f"output_dir={tmp_path / 'made'}"]


def interrupted(viewer) -> float:
    """Stop a viewer as Ctrl-C does."""
    signal.raise_signal(signal.SIGINT)
    return 0.0


@pytest.mark.parametrize("line", [c for c in COMMANDS if "gpus=4" not in c and "experiment=paper" not in c])
def test_command_runs(command, monkeypatch, line, ball, trained, ball_checkpoint, tmp_path):
    task, arguments = split(line)
    root = tmp_path / "objects"
    for part in ("train", "validation", "test"):
        (root / part).mkdir(parents=True)
        (root / part / "vase").symlink_to(ball / part / "ball")
    paths = ("ckpt=", "init_from=", "object.", "hydra.", "grid=", "source.path=", "output_dir=", "runs=")
    arguments = [a for a in arguments if not a.startswith(paths)]
    if task == "train" and "-m" in arguments:
        arguments += ["grid=16"]
    if task == "prepare":
        arguments += prepare_arguments(command, arguments, ball, tmp_path)
    elif task == "report":
        arguments += [f"runs={trained.parents[1]}", f"output_dir={tmp_path / 'report'}"]
    elif task == "train":
        grids = ("experiment=radiance", "experiment=capture")
        radiance = any(a.startswith(grids) for a in arguments)  # a radiance grid has no base_channels
        tiny = [a for a in TINY if not (radiance and a.startswith("model."))]
        arguments += [*tiny, f"object.root={root}", "trainer.max_steps=1"]
        arguments += [] if any(a.startswith("loss=") for a in arguments) else ["loss=l1"]
        arguments += ["object.name=vase"] if "object=custom" in arguments else []
        arguments += [f"init_from={trained}"] if "init_from=" in line else []
        arguments += ["hydra.sweeper.trials=2"] if "sweep=optuna" in line else []
    elif task == "view":
        monkeypatch.setattr("dv.viewer.server.Viewer.work", interrupted)
        arguments += [f"ckpt={trained}", "viewer.port=0"]
    else:
        arguments += [
            f"ckpt={ball_checkpoint if task == 'export' else trained}",
            "trainer.gpus=0",
            f"output_dir={tmp_path / 'out'}",
        ]
        if "object=custom" in arguments:
            arguments += [f"object.root={root}", "object.name=vase"]
        if "trajectory=spiral" in arguments:
            arguments += ["trajectory.frames=2"]
    folder_key = "hydra.sweep.dir" if "-m" in arguments or "experiment=study" in line else "hydra.run.dir"
    result = command(task, *arguments, f"{folder_key}={tmp_path / 'run'}")
    assert result.code == 0, result.err
