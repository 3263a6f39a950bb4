"""The radiance grid through the entry points: learning, resuming, ranks, scores and images."""

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from compositing import time_compositing
from frames import frame_seconds

from conftest import TINY_RADIANCE, compose_config, step_overrides, write_object
from dv.checkpoint import KEY, read_checkpoint
from dv.data.object import ObjectSource
from dv.errors import Interrupted
from dv.lightning.radiance_module import FIRST_CHANGE, RadianceGridModule
from dv.lightning.schedule import IGNORED_STEPS
from dv.lightning.vertex_changes import MIN_SIDE
from dv.radiance import RadianceGrid
from faults import assert_equal_runs, read_weights
from wandb_runs import runs


@pytest.fixture
def arguments(ball):
    return ["object=custom", f"object.root={ball}", "object.name=ball", *TINY_RADIANCE]


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Run folder of a training that is long enough to learn the ball, from 40 views."""
    import subprocess
    import sys

    run, many = tmp_path_factory.mktemp("learned"), write_object(tmp_path_factory.mktemp("many"), train=40)
    command = [
        sys.executable,
        "-m",
        "dv.tasks.train",
        "object=custom",
        f"object.root={many}",
        "object.name=ball",
        *TINY_RADIANCE,
    ]
    command += [
        "grid.side=32",
        "model.decoder_features=0",
        "optimizer.learning_rate=0.1",
        "model.density_rate=4000",
        *step_overrides(800),
    ]
    subprocess.run([*command, f"hydra.run.dir={run}"], check=True, capture_output=True)
    return run


def rows(run: Path, column: str) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row[column]) for row in csv.DictReader(file) if row.get(column)]


def test_training_learns_an_object_and_prunes_empty_space(learned):
    psnr = rows(learned, "train/psnr")
    assert sum(psnr[-10:]) > sum(psnr[:10]) + 80  # 8 dB
    state = read_weights(learned / "checkpoints" / "last.ckpt")
    assert state["model.voxels.index"].shape == (1, 32, 32, 32)
    assert (
        len(state["model.voxels.density"]) < 0.6 * 32**3
    )  # the ball fills 0.38 of the grid, and its inside is not seen
    assert int(state["changes"]) == 5
    for name in ("pictures/views_0000800.png", "pictures/voxels_0000800.ply", "checkpoints/best.ckpt", "config.yaml"):
        assert (learned / name).is_file(), name


def test_vertices_get_normals_of_the_learned_surface(command, arguments, tmp_path):
    """The ball is at the centre of the grid, so its normals point away from there."""
    steps = [
        *step_overrides(300),
        "optimizer.learning_rate=0.1",
        "grid.side=32",
        "model.rays=2048",
    ]  # each vertex is met often enough
    assert command("train", *arguments, *steps, "model.view_from=0.98").code == 0
    state = read_weights(tmp_path / "run" / "checkpoints" / "last.ckpt")
    index, density, features = (state[f"model.voxels.{name}"] for name in ("index", "density", "features"))
    assert features.shape[1] == 12 + 5 + 3, "harmonics, features of the decoder, normal"
    vertices = torch.nonzero(index[0])
    rows = index[0][tuple(vertices.T)].long()
    outwards = torch.nn.functional.normalize(vertices.flip(1) - (index.shape[1] - 1) / 2, dim=1)
    seen = (features[rows, -3:] != 0).any(1) & (density[rows] > 0)
    assert seen.sum() > 100
    assert (features[rows, -3:] * outwards).sum(1)[seen].median() > 0.8


def test_scores_images_and_depth(command, ball, learned, tmp_path):
    """The ball has radius 0.45, which gives the depth at its centre."""
    ckpt = f"ckpt={learned / 'checkpoints' / 'best.ckpt'}"
    result = command("evaluate", ckpt, f"output_dir={tmp_path / 'scores'}")
    assert result.code == 0, result.err
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert metrics["mean"]["psnr"] > 26
    result = command(
        "render", f"ckpt={learned / 'checkpoints' / 'best.ckpt'}", "trajectory=test", f"output_dir={tmp_path}"
    )
    assert result.code == 0, result.err
    assert (tmp_path / "video.mp4").stat().st_size
    units = json.loads((tmp_path / "depth.json").read_text())["world_units_per_count"]
    poses = torch.tensor(json.loads((tmp_path / "frames.json").read_text())["poses"])
    for i, pose in enumerate(poses):
        depth = cv2.imread(str(tmp_path / f"depth/{i:06d}.png"), cv2.IMREAD_UNCHANGED) * units
        distance = float(pose[:3, 3].norm())
        assert depth.shape == (32, 32)
        assert np.median(depth[14:18, 14:18]) == pytest.approx(distance - 0.45, abs=0.06)  # two vertices apart
        assert depth[0, 0] > distance  # background


def test_density_rates_have_the_same_sum_for_any_number_of_steps(command, arguments, tmp_path):
    sums = []
    for steps in (20, 40):
        run = tmp_path / str(steps)
        base = [*arguments, f"trainer.max_steps={steps}", "model.density_rate=300", f"hydra.run.dir={run}"]
        result = command("train", *base)
        assert result.code == 0, result.err
        rates = rows(run, "train/learning_rate/density")
        assert len(rates) == steps
        sums.append(sum(rates))
    assert sums[0] == pytest.approx(sums[1], rel=0.05)


def test_density_rate_is_proportional_to_the_time_fraction_of_a_step(command, arguments, tmp_path, monkeypatch):
    """Starting takes three tenths of the time limit, and each of 20 steps a twentieth of the rest."""
    monkeypatch.setattr(RadianceGridModule, "progress", lambda self: 0.3 + 0.7 * self.global_step / 20)
    clock = ["trainer.max_time=00:01:00:00", "trainer.max_steps=31", "model.density_rate=10"]
    result = command("train", *arguments, *clock, f"hydra.run.dir={tmp_path / 'run'}")
    assert result.code == 0, result.err
    density, features = (rows(tmp_path / "run", f"train/learning_rate/{name}") for name in ("density", "features"))
    fractions = [
        d / f / 10 / 4.5 ** (0.3 + 0.7 * step / 20) for step, (f, d) in enumerate(zip(features, density, strict=True))
    ]
    assert fractions[: IGNORED_STEPS + 2] == pytest.approx([1 / 31] * (IGNORED_STEPS + 2), rel=1e-4), (
        "at first, one of all allowed steps"
    )
    assert fractions[IGNORED_STEPS + 2 : 20] == pytest.approx([0.7 / 20] * (18 - IGNORED_STEPS), rel=1e-4)


def test_a_slow_start_prunes_nothing(command, arguments, tmp_path, monkeypatch):
    """Half of the time is over before the first step, when no vertex is dense yet."""
    monkeypatch.setattr(RadianceGridModule, "progress", lambda self: 0.5 + 0.5 * self.global_step / 80)
    vertices = []
    change_vertices = RadianceGridModule._change_vertices

    def stop_after_change(self, *given):
        change_vertices(self, *given)
        vertices.append(len(self.model.voxels.density) - 1)
        if len(vertices) > FIRST_CHANGE:
            raise Interrupted("seen enough")

    monkeypatch.setattr(RadianceGridModule, "_change_vertices", stop_after_change)
    clock = ["trainer.max_time=00:01:00:00", "trainer.max_steps=10000", "model.initial_density=-9"]
    result = command("train", *arguments, *clock, f"hydra.run.dir={tmp_path / 'run'}")
    assert "seen enough" in result.err
    assert vertices[:FIRST_CHANGE] == [MIN_SIDE**3] * FIRST_CHANGE
    assert vertices[FIRST_CHANGE] != vertices[0]


def test_the_clock_schedules_vertex_changes_by_the_number_of_steps(command, arguments, tmp_path, monkeypatch):
    """In the time that is given, 200 steps can be made, each of the first 60 in 0.4 of the time of a later one."""

    def fractions(self):
        early = min(self.global_step, 60)
        return 0.0, (0.4 * early + self.global_step - early + 1e-6) / (0.4 * 60 + 140)

    monkeypatch.setattr(RadianceGridModule, "fractions", fractions)
    widths = []
    change_vertices = RadianceGridModule._change_vertices

    def stop_after_change(self, *given):
        change_vertices(self, *given)
        widths.append(self.model.voxels.features.shape[1])
        if len(widths) > 60:
            raise Interrupted("seen enough")

    monkeypatch.setattr(RadianceGridModule, "_change_vertices", stop_after_change)
    recipe = ["model.view_from=0.3", "model.early_step_time=0.4", "trainer.max_time=00:01:00:00"]
    result = command("train", *arguments, *recipe, "trainer.max_steps=10000", f"hydra.run.dir={tmp_path / 'run'}")
    assert "seen enough" in result.err
    assert widths[:60] == widths[:1] * 60
    assert widths[60] > widths[0], "from step 60 on vertices hold the features of the decoder"


def test_steps_schedule_vertex_changes_if_they_end_the_training(command, arguments, tmp_path):
    """A time limit that would be reached later does not matter."""
    result = command("train", *arguments, "trainer.max_time=00:01:00:00", "trainer.max_steps=20")
    assert result.code == 0, result.err
    state = read_weights(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert int(state["changes"]) == 5
    assert state["model.voxels.index"].shape[1] == 16


def test_resuming_with_other_vertex_changes_is_refused(command, arguments):
    assert command("train", *arguments).code == 0
    result = command("train", *arguments, "resume=auto", "trainer.max_steps=100", "model.refine_at=[]")
    assert result.code == 1
    assert "was trained with model.refine_at=[0.1, 0.3], not []; add 'model.refine_at=[0.1, 0.3]'" in result.err


def test_exposures_of_the_training_views_are_learned(command, tmp_path):
    """The object gets the average brightness of the views."""
    many = write_object(tmp_path / "many", train=30)
    uneven = ["source=folder", f"source.path={many}", "source.object=ball", "source.mask=uniform"]
    result = command("prepare", *uneven, "noise.exposure=0.5", f"output_dir={tmp_path / 'uneven'}", "object.name=ball")
    assert result.code == 0, result.err
    before, after = (ObjectSource(root, "ball").views("train").images.float() for root in (many, tmp_path / "uneven"))
    gains = (after[..., 10:22, 10:22].sum((1, 2, 3)) / before[..., 10:22, 10:22].sum((1, 2, 3))).log()
    scores = {}
    for rate in (0.0, 0.1):
        run = tmp_path / f"rate{rate}"
        base = ["object=custom", f"object.root={tmp_path / 'uneven'}", "object.name=ball", *TINY_RADIANCE]
        base += [*step_overrides(200), "optimizer.learning_rate=0.1"]
        result = command("train", *base, "grid.side=32", f"model.exposure_rate={rate}", f"hydra.run.dir={run}")
        assert result.code == 0, result.err
        scores[rate] = np.mean(rows(run, "train/psnr")[-20:])
        assert rows(run, "val/psnr")[-1] > 24
    exposure = read_weights(run / "checkpoints" / "last.ckpt")["model.exposures.log_gain"].mean(1)
    assert float(np.corrcoef(exposure, gains)[0, 1]) > 0.85
    assert scores[0.1] > scores[0.0] + 1


def test_resuming_with_other_exposures_is_refused(command, arguments, tmp_path):
    assert command("train", *arguments, "model.exposure_rate=0.1").code == 0
    result = command("train", *arguments, "resume=auto", "trainer.max_steps=100")
    assert result.code == 1
    assert "last.ckpt has exposures of 8 views, and this training of 0; give model.exposure_rate" in result.err
    assert "Traceback" not in result.err


SURROUNDINGS = ["model.levels=2", "model.environment=4", "model.exposure_rate=0.1", "model.vignetting_rate=0.01"]
SURROUNDINGS += ["model.camera_rate=0.01", "model.refine_focal_length=true"]


@pytest.mark.parametrize(("stop", "more"), [(2, []), (3, SURROUNDINGS), (5, SURROUNDINGS), (7, [])])
def test_a_resumed_run_equals_an_uninterrupted_one(command, arguments, tmp_path, stop, more):
    """One of the stops is between refinements, with fewer vertices than at the start; one is where normals are due."""
    base = [*arguments, "trainer.save_every_steps=1", "trainer.validate_every_steps=4", "seed=3"]
    base += more
    assert command("train", *base, "trainer.max_steps=8", f"hydra.run.dir={tmp_path / 'uninterrupted'}").code == 0
    stopped = [*base, "trainer.max_steps=8", f"hydra.run.dir={tmp_path / 'stopped'}"]
    with pytest.MonkeyPatch.context() as patch:
        learn = RadianceGridModule.training_step

        def interrupted(self, batch, batch_idx):
            if self.global_step == stop:
                raise Interrupted("stopped", 15)
            return learn(self, batch, batch_idx)

        patch.setattr(RadianceGridModule, "training_step", interrupted)
        assert command("train", *stopped).code == 143
    assert read_checkpoint(tmp_path / "stopped" / "checkpoints" / "last.ckpt").step == stop
    result = command("train", *stopped, "resume=auto")
    assert result.code == 0, result.err
    assert_equal_runs(tmp_path / "stopped", tmp_path / "uninterrupted")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("model.camera_rate=0", "was trained with model.camera_rate"),
        ("model.vignetting_rate=0", "was trained with model.vignetting_rate"),
        ("model.levels=1", "has model.levels=2, not 1; add model.levels=2"),
        ("model.environment=8", "has model.environment=4, not 8; add model.environment=4"),
    ],
)
def test_resuming_with_other_parts_is_refused(command, arguments, changed, message):
    more = [*SURROUNDINGS[:-1], "trainer.max_steps=2"]
    assert command("train", *arguments, *more).code == 0
    result = command("train", *arguments, *more, changed, "trainer.max_steps=4", "resume=auto")
    assert result.code == 1
    assert message in result.err
    assert result.err.count("\n") == 1


def test_ranks_take_the_same_steps_as_one_process(command, arguments, tmp_path):
    base = [*arguments, "trainer.max_steps=6", "trainer.precision=64-true", *SURROUNDINGS]
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert command("train", *base, "data.batch_size=2", f"hydra.run.dir={alone}").code == 0
    result = command("train", *base, "trainer.processes=2", f"hydra.run.dir={shared}")
    assert result.code == 0, result.err
    ours, theirs = (read_weights(run / "checkpoints" / "last.ckpt") for run in (shared, alone))
    assert torch.equal(ours["model.voxels.index"], theirs["model.voxels.index"])
    names = "model.voxels.density", "model.voxels.features", "model.background", "model.exposures.log_gain"
    for name in (*names, "model.vignetting.terms", "camera_refinement.rotation", "camera_refinement.log_focal"):
        a, b = ours[name], theirs[name]
        assert b.any()
        assert (a - b).norm() <= 1e-9 * b.norm()
    assert rows(shared, "train/loss/l2") == pytest.approx(rows(alone, "train/loss/l2"), rel=1e-9)
    assert rows(shared, "val/psnr") == pytest.approx(rows(alone, "val/psnr"), rel=1e-6)


def test_bf16_trains_and_evaluates(command, arguments, tmp_path):
    precision = "trainer.precision=bf16-mixed"
    arguments = [*arguments, "optimizer.learning_rate=0.1"]
    result = command(
        "train", *arguments, precision, *step_overrides(60), "trainer.log_every_steps=5", "model.refine_at=[]"
    )
    assert result.code == 0, result.err
    psnr = rows(tmp_path / "run", "train/psnr")
    assert psnr[-1] > psnr[0] + 3
    result = command("evaluate", f"ckpt={tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}", precision)
    assert result.code == 0, result.err


def test_depth_reaches_the_far_corner_from_any_distance(command, ball, learned, tmp_path):
    shutil.copytree(ball / "test", tmp_path / "far" / "test")
    for path in (tmp_path / "far" / "test" / "ball" / "pose").iterdir():
        pose = np.loadtxt(path).reshape(4, 4)
        pose[:3, 3] *= 3.2 / np.linalg.norm(pose[:3, 3])
        path.write_text(" ".join(map(str, pose.ravel())))
    far = ["trajectory=poses", f"object.root={tmp_path / 'far'}", "object.name=ball", f"output_dir={tmp_path}"]
    result = command("render", f"ckpt={learned / 'checkpoints' / 'best.ckpt'}", *far)
    assert result.code == 0, result.err
    units = json.loads((tmp_path / "depth.json").read_text())["world_units_per_count"]
    depth = cv2.imread(str(tmp_path / "depth/000000.png"), cv2.IMREAD_UNCHANGED) * units
    assert depth[0, 0] > 3.2, "the corner shows the background"
    assert np.median(depth[15:17, 15:17]) == pytest.approx(3.2 - 0.45, abs=0.1)


@pytest.mark.slow
def test_wandb_shows_a_radiance_grid(command, arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    done = command("train", *arguments, "logger=wandb", "logger.frames=2", "trainer.picture_every_steps=2")
    assert done.code == 0, done.err
    (run,) = runs(tmp_path / "run")
    assert {"val/psnr", "train/psnr", "time/step", "views", "voxels", "validation", "trajectory"} <= run.names()
    assert run.config["model"]["kind"] == "radiance_grid"
    assert "model" in run.artifacts


def test_frame_times_are_measured(learned):
    seconds = frame_seconds(learned / "checkpoints" / "best.ckpt", torch.device("cpu"), 3, "32-true")
    assert len(seconds) == 3
    assert all(s > 0 for s in seconds)


def test_kernels_are_timed_beside_tensors(learned):
    kernels, tensors = time_compositing(learned / "checkpoints" / "best.ckpt", torch.device("cpu"), 64, 2)
    assert kernels > 0
    assert tensors > 0


def test_pixels_within_the_border_do_not_train(command, arguments, ball, tmp_path):
    assert command("train", *arguments, "loss.border=12").code == 0
    source = ObjectSource(ball, "ball")
    config = compose_config(
        "train", *TINY_RADIANCE, "loss=l2", "loss.border=12", "grid.side=16", "model.rays=16", "output_dir=x"
    )
    module = RadianceGridModule(config, source.views("train"), source.calibration(), source.calibration().intrinsics)
    views = source.views("train")
    module.on_train_start()
    pixels = module._pool.numbers.long() % 32**2
    assert len(pixels) == len(views) * 8**2
    assert all(12 <= int(x) < 20 for x in (*(pixels % 32), *(pixels // 32)))


def test_older_checkpoints_load_with_a_linear_share_of_zero(learned):
    checkpoint = read_checkpoint(learned / "checkpoints" / "last.ckpt")
    share = float(checkpoint.model_state.pop("linear_share"))
    assert share != 1, "the share is learned"
    model = RadianceGrid.from_state(checkpoint.sizes, checkpoint.placement, checkpoint.model_state)
    assert model.linear_share.detach() == 0


def test_resuming_an_older_run_without_a_linear_share_is_refused(command, arguments, tmp_path):
    assert command("train", *arguments).code == 0
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    old = torch.load(path, weights_only=True)
    del old["state_dict"]["model.linear_share"]
    torch.save(old, path)
    result = command("train", *arguments, "resume=auto", "trainer.max_steps=100")
    assert result.code == 1
    assert f"start another one with its weights: init_from={path}" in result.err
    assert "Traceback" not in result.err
    another = f"hydra.run.dir={tmp_path / 'another'}"
    result = command(
        "train", *(a for a in arguments if not a.startswith("hydra.run.dir=")), another, f"init_from={path}"
    )
    assert result.code == 0, result.err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss=l1_gan", "which no discriminator can judge"),
        ("model.rays=3", "model.rays=3 must be at least 4, the rays of one pixel"),
        ("trainer.max_steps=null trainer.max_epochs=null", "nothing ends the training"),
        (
            "model.refine_at=[2]",
            "model.refine_at=[2] must be a list, [a,b,…], of which each is a number",
        ),
        ("model.prune_at=[a]", "model.prune_at=[a] must be a list"),
        ("model.density_rate=nan", "model.density_rate=nan must be a number of at least 0"),
        ("model.initial_density=-20", "model.initial_density=-20.0 is invisible in a grid that starts with 8 vertices"),
        ("model.vignetting_rate=0.1", "needs exposures, which are not learned for things before a plain background"),
        ("model.view_degree=1.0", "model.view_degree=1.0 must be a whole number from 0 to 4"),
        ("optimizer.final_fraction=0", "optimizer.final_fraction=0 is never reached exponentially"),
        ("trainer.precision=bf16-true", "rays through a radiance grid need more bits; use bf16-mixed"),
        ("grid.side=4", "grid.side=4 must be at least 8"),
        ("model.kind=nerf", "model.kind=nerf must be one of deepvoxels, radiance_grid or package.module:Class"),
    ],
)
def test_invalid_settings_are_named(command, arguments, override, message):
    arguments = [a for a in arguments if a.partition("=")[0] != override.partition("=")[0]]
    result = command("train", *arguments, *override.split(), *(["loss.border=4"] if override == "loss=l1_gan" else []))
    assert result.code == 1
    assert message in result.err


def test_a_checkpoint_of_the_other_model_is_refused(command, arguments, ball_overrides, learned, trained):
    ours = learned / "checkpoints" / "best.ckpt"
    result = command("train", *ball_overrides, "loss=l1", f"init_from={ours}")
    assert result.code == 1
    assert "holds a model of another kind; use model=radiance_grid" in result.err
    result = command("train", *arguments, f"init_from={trained}")
    assert result.code == 1
    assert "holds a model of another kind; use model=deepvoxels" in result.err


def test_training_starts_from_the_weights_of_another_run(command, arguments, learned, tmp_path):
    arguments += ["grid.side=32", "model.decoder_features=0"]
    result = command("train", *arguments, f"init_from={learned / 'checkpoints' / 'best.ckpt'}")
    assert result.code == 0, result.err
    assert rows(tmp_path / "run", "train/psnr")[0] > 20


def test_resuming_with_another_reflection_degree_is_refused(command, arguments, tmp_path):
    """Older checkpoints do not record the degree, which was 0."""
    assert command("train", *arguments, "model.reflection_degree=0").code == 0
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    old = torch.load(path, weights_only=True)
    del old[KEY]["sizes"]["reflection_degree"]
    torch.save(old, path)
    result = command("train", *arguments, "resume=auto", "trainer.max_steps=100")
    assert result.code == 1
    assert f"{path} has model.reflection_degree=0, not 4; add model.reflection_degree=0" in result.err
    resumed = command("train", *arguments, "resume=auto", "trainer.max_steps=100", "model.reflection_degree=0")
    assert resumed.code == 0, resumed.err


@pytest.mark.parametrize("move", [False, True])
def test_unseen_vertices_move_only_on_request(command, ball, tmp_path, move):
    """One pixel per step, of which no ray meets most vertices."""
    base = ["object=custom", f"object.root={ball}", "object.name=ball", *TINY_RADIANCE, *step_overrides(3)]
    result = command("train", *base, "model.rays=4", "model.refine_at=[]", f"model.move_unseen={str(move).lower()}")
    assert result.code == 0, result.err
    density = read_weights(tmp_path / "run" / "checkpoints" / "last.ckpt")["model.voxels.density"][1:]
    unmoved = (density == -5).double().mean()  # model.initial_density
    assert unmoved == 0 if move else 0.5 < unmoved < 1
