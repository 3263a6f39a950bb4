"""Objects with rectangular images of several cameras from training to film."""

import json

import imageio.v3 as iio
import numpy as np
import pytest

from conftest import TINY, TINY_RADIANCE, step_overrides, write_views
from several_cameras import TALL, WIDE, write_two_cameras


def test_two_cameras_are_trained_evaluated_and_rendered(command, tmp_path):
    root = write_two_cameras(tmp_path / "object")
    given = ["object=custom", f"object.root={root}", "object.name=ball"]
    run = f"hydra.run.dir={tmp_path / 'run'}"
    steps = [*step_overrides(40), "trainer.picture_every_steps=20", "trainer.gpus=0", run]
    trained = command("train", *given, *TINY_RADIANCE, *steps)
    assert trained.code == 0, trained.err
    ckpt = f"ckpt={tmp_path / 'run' / 'checkpoints' / 'best.ckpt'}"
    evaluated = command("evaluate", ckpt, "trainer.gpus=0")
    assert evaluated.code == 0, evaluated.err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["mean"]["psnr"] > 15
    assert metrics["image_size"] == [40, 24]
    shapes = {iio.imread(path).shape[:2] for path in (tmp_path / "run" / "test_views").glob("*.png")}
    assert shapes == {(h + 4, 3 * (w + 4)) for h, w in (WIDE, TALL)}
    assert iio.imread(tmp_path / "run" / "test_views.png").shape[1] == 3 * (8 * 40 + 8)

    out = tmp_path / "spiral"
    rendered = command(
        "render", ckpt, "trajectory=spiral", "trajectory.frames=3", f"output_dir={out}", "trainer.gpus=0"
    )
    assert rendered.code == 0, rendered.err
    assert {iio.imread(path).shape for path in (out / "rgb").glob("*.png")} == {(*WIDE, 3)}
    out = tmp_path / "views"
    rendered = command("render", ckpt, "trajectory=test", f"output_dir={out}", "trainer.gpus=0")
    assert rendered.code == 0, rendered.err
    assert {iio.imread(path).shape[:2] for path in (out / "rgb").glob("*.png")} == {WIDE, TALL}
    film = iio.imread(out / "video.mp4")
    assert film.shape[2] % 2 == film.shape[1] % 2 == 0
    assert film.shape[2] / film.shape[1] == pytest.approx(40 / 36, abs=0.01)

    checked = command("prepare", "source=check", *given, f"output_dir={tmp_path / 'check'}")
    assert checked.code == 0, checked.err
    assert "views of 40×24 px and 1 other cameras" in checked.out
    exported = command("prepare", "source=export", *given, f"output_dir={tmp_path / 'export'}")
    assert exported.code == 0, exported.err
    frames = json.loads((tmp_path / "export" / "transforms_train.json").read_text())["frames"]
    assert [frame.get("w", 40) for frame in frames[:2]] == [40, 20]
    imported = command(
        "prepare", "source=transforms", f"source.path={tmp_path / 'export'}", f"output_dir={tmp_path / 'b'}"
    )
    assert imported.code == 0, imported.err
    before, after = (
        json.loads((r / "train" / n / "cameras.json").read_text()) for r, n in ((root, "ball"), (tmp_path / "b", "b"))
    )
    for old, new in zip(before["cameras"], after["cameras"], strict=True):
        shifted = old | {"cx": old["cx"] + 0.5, "cy": old["cy"] + 0.5}  # prepare.py writes pixel centres at 0.5
        np.testing.assert_allclose([new[key] for key in old], list(shifted.values()), rtol=1e-9)


def test_the_papers_model_reads_central_squares_of_one_camera_only(command, tmp_path):
    root = tmp_path / "one"
    for split, count in (("train", 4), ("validation", 1), ("test", 1)):
        write_views(root / split / "ball", count, 0, size=(40, 64))
    tiny = ["object=custom", "object.name=ball", *TINY, "loss=l1", *step_overrides(1), "trainer.gpus=0"]
    trained = command("train", f"object.root={root}", *tiny)
    assert trained.code == 0, trained.err
    several = write_two_cameras(tmp_path / "two")
    refused = command("train", f"object.root={several}", *tiny)
    assert refused.code == 1
    assert "reads squares of one camera" in refused.err
    assert refused.err.strip().count("\n") == 0


def test_squares_of_a_side_are_still_read_on_request(command, tmp_path):
    root = write_two_cameras(tmp_path / "object")
    given = ["object=custom", f"object.root={root}", "object.name=ball", *TINY_RADIANCE, *step_overrides(2)]
    trained = command("train", *given, "data.image_side=16", "trainer.gpus=0")
    assert trained.code == 0, trained.err
    evaluated = command("evaluate", f"ckpt={tmp_path / 'run' / 'checkpoints' / 'best.ckpt'}", "trainer.gpus=0")
    assert evaluated.code == 0, evaluated.err
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["image_size"] == [16, 16]
    refused = command("train", *given, "data.image_side=16", "data.longest_side=32")
    assert "give one of them" in refused.err
    refused = command(
        "train", *given, "trainer.max_steps=4", f"resume={tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}"
    )
    assert "add data.image_side=16" in refused.err
