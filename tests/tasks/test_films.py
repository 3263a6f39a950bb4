"""Films of render.py: formats, sizes, what lies beside, stereo, and continuing."""

import json

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image

from dv.geometry.camera import Intrinsics, project, to_camera
from dv.geometry.trajectory import eye_poses, look_at
from dv.images import read_png16, write_png16
from dv.rendering.films import Film
from radiance_balls import ball_grid, write_checkpoint


@pytest.fixture
def ckpt(ball, tmp_path):
    return write_checkpoint(ball_grid(grid_side=16), tmp_path / "ball.ckpt", ball)


def render(command, ckpt, out, *arguments):
    result = command("render", f"ckpt={ckpt}", f"output_dir={out}", "trainer.gpus=0", *arguments)
    assert result.code == 0, result.err
    return result


@pytest.mark.parametrize("suffix", ["gif", "webp", "mp4"])
def test_all_formats_hold_the_frames(tmp_path, suffix):
    path = tmp_path / f"film.{suffix}"
    colors = [[0.9, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.2, 0.9]]
    with Film(path, fps=10, min_side=1) as film:
        for color in colors:
            film.add(torch.tensor(color)[:, None, None].expand(3, 41, 60))
    if suffix == "mp4":
        frames = iio.imread(path)
        assert frames.shape == (3, 42, 60, 3)
    else:
        image = Image.open(path)
        assert (image.n_frames, image.size, image.info["loop"]) == (3, (60, 41), 0)
        frames = []
        for i in range(3):
            image.seek(i)
            frames.append(np.array(image.convert("RGB")))
            assert image.info["duration"] == 100
    for frame, color in zip(frames, colors, strict=True):
        np.testing.assert_allclose(frame[20, 30] / 255, color, atol=0.04)


def test_any_size_and_aspect(command, ckpt, tmp_path):
    render(command, ckpt, tmp_path / "a", "trajectory=turntable", "trajectory.frames=3", "width=64", "height=40")
    image = read_png16(tmp_path / "a" / "rgb" / "000000.png")
    assert image.shape == (3, 40, 64)
    render(command, ckpt, tmp_path / "b", "trajectory=turntable", "trajectory.frames=3", "height=40", "film=gif")
    square = read_png16(tmp_path / "b" / "rgb" / "000000.png")
    torch.testing.assert_close(image[:, :, 12:52], square, atol=1e-4, rtol=0)  # more is seen at both sides
    assert Image.open(tmp_path / "b" / "video.gif").n_frames == 3
    poses = torch.tensor(json.loads((tmp_path / "b" / "frames.json").read_text())["poses"])
    places = poses[:, :3, 3]
    sine = places.mean(0).norm() / places[0].norm()  # the mean over a turn lies on the axis
    assert float(sine) == pytest.approx(np.sin(np.radians(15)), abs=1e-5)


def test_supersampling_is_the_mean_of_a_larger_image(command, ckpt, tmp_path):
    """With pixel centres at 0.5 the rays of a pixel are those of the pixels of an image of twice the size."""
    arguments = "trajectory=test", "film=null", "object.pixel_center=0.5"
    render(command, ckpt, tmp_path / "out", *arguments, "supersampling=1")
    single = read_png16(tmp_path / "out" / "rgb" / "000000.png")
    render(command, ckpt, tmp_path / "out", *arguments, "supersampling=2")  # other frames in the same folder
    smooth = read_png16(tmp_path / "out" / "rgb" / "000000.png")
    render(command, ckpt, tmp_path / "large", *arguments, "supersampling=1", "width=64")
    large = read_png16(tmp_path / "large" / "rgb" / "000000.png")
    torch.testing.assert_close(smooth, torch.nn.functional.avg_pool2d(large, 2), atol=1e-3, rtol=0)
    assert (smooth - single).abs().max() > 0.01


def test_networks_have_no_rays_to_supersample(command, trained):
    for task in ("render", "evaluate"):
        result = command(task, f"ckpt={trained}", "supersampling=3")
        assert result.code == 1
        assert "renders images by a network, so a pixel cannot have 3² rays; leave it out" in result.err


def test_beside_truth_depth_and_another_checkpoint(command, ckpt, ball, tmp_path):
    other = write_checkpoint(ball_grid(grid_side=16, seed=5), tmp_path / "other.ckpt", ball)
    beside = f"beside=[truth,depth,{other}]"
    render(command, ckpt, tmp_path / "out", "trajectory=test", beside, "film=webp")
    film = Image.open(tmp_path / "out" / "video.webp")
    k = film.height // 32  # small frames are enlarged
    frame = np.array(film.convert("RGB"))[::k, ::k] / 255
    truth = iio.imread(ball / "test" / "ball" / "rgb" / "000000.png") / 255
    assert np.abs(frame[:, 36:68] - truth).mean() < 0.05
    first = read_png16(tmp_path / "out" / "rgb" / "000000.png").permute(1, 2, 0).numpy()
    last = read_png16(tmp_path / "out" / "beside" / "rgb" / "000000.png").permute(1, 2, 0).numpy()
    assert np.abs(first - last).mean() > 0.05
    assert np.abs(frame[:, :32] - first).mean() < 0.05
    assert np.abs(frame[:, -32:] - last).mean() < 0.05
    depth = frame[:, 72:104]
    assert depth[16, 16, 0] > depth[16, 16, 2]  # yellow where it is near
    assert depth[0, 0].min() > 0.9  # white where there is nothing


def test_stereo(command, ckpt, tmp_path):
    out = tmp_path / "out"
    render(command, ckpt, out, "trajectory=orbit", "trajectory.frames=2", "stereo=anaglyph", "eye_distance=0.2")
    left, right = (read_png16(folder / "rgb" / "000000.png") for folder in (out, out / "right"))
    assert (left - right).abs().mean() > 0.01
    frame = iio.imread(out / "video.mp4")[0][::8, ::8] / 255
    expected = torch.cat([left[:1], right[1:]]).permute(1, 2, 0).numpy()
    assert np.abs(frame - expected).mean() < 0.06
    render(command, ckpt, out, "trajectory=orbit", "trajectory.frames=2", "stereo=side_by_side")
    assert iio.imread(out / "video.mp4")[0].shape[1] > 2 * iio.imread(out / "video.mp4")[0].shape[0]


def test_eyes_meet_at_the_center():
    """Projected one by one: the centre stays, what is nearer lies further right for the left eye."""
    center = torch.tensor([0.1, 0.0, 0.2], dtype=torch.float64)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    pose = look_at(torch.tensor([2.0, 1.0, 0.7], dtype=torch.float64), torch.zeros(3, dtype=torch.float64), up)
    camera = Intrinsics(50.0, 60.0, 20.0, 15.0, 40, 30)
    near = center + 0.5 * (pose[:3, 3] - center)
    whole = project(to_camera(pose, center[None]), camera)
    places = []
    for offset in (-0.05, 0.05):
        poses, (k,) = eye_poses(pose[None], [camera], center, offset)
        torch.testing.assert_close(project(to_camera(poses[0], center[None]), k), whole)
        places.append(float(project(to_camera(poses[0], near[None]), k)[0, 0]))
    assert places[0] > places[1]


def test_rendering_continues_where_it_stopped(command, ckpt, tmp_path):
    out, same = tmp_path / "out", ["trajectory=orbit", "trajectory.frames=4"]
    render(command, ckpt, out, *same)
    images = {path: path.read_bytes() for path in sorted(out.rglob("*.png"))}
    assert {path.parent.name for path in images} == {"rgb", "depth", "opacity"}
    marked = torch.zeros(3, 32, 32)
    write_png16(out / "rgb" / "000001.png", marked)
    (out / "rgb" / "000003.png").write_bytes(images[out / "rgb" / "000003.png"][:200])
    (out / "depth" / "000002.png").unlink()
    assert "2 of 4 frames are there already" in render(command, ckpt, out, *same).out
    assert torch.equal(read_png16(out / "rgb" / "000001.png"), marked)  # it was kept
    for path in (out / "rgb" / "000003.png", out / "depth" / "000002.png"):
        assert path.read_bytes() == images[path]
    result = render(command, ckpt, out, *same, "background=white")
    assert "already" not in result.out
    assert read_png16(out / "rgb" / "000001.png").max() > 0
    render(command, ckpt, out, *same, "stereo=side_by_side", "film=gif")
    assert (out / "right").is_dir()
    render(command, ckpt, out, "trajectory=orbit", "trajectory.frames=3", "film=null")
    assert sorted(path.name for path in out.iterdir()) == ["depth", "depth.json", "frames.json", "opacity", "rgb"]
    assert len(list(out.rglob("*.png"))) == 9


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["beside=truth", "trajectory=orbit"], "beside=truth needs trajectory=test"),
        (["beside=truth", "trajectory=test", "height=64"], "leave out width= and height="),
        (["beside=depth", "film=null"], "beside= is shown in a film"),
        (["beside=depth", "stereo=anaglyph"], "leave out beside="),
        (["beside=dept"], "beside=dept must be truth, depth or the file of a checkpoint; did you mean depth?"),
        (["eye_distance=0.1"], "give one of them"),
        (["eye_distance=9", "stereo=anaglyph"], "is more than half the distance of 1.6 to the centre"),
        (["width=100000"], "width=100000"),
        (["film=avi"], "film=avi must be mp4, gif, webp or null"),
    ],
)
def test_bad_films(command, ckpt, tmp_path, arguments, expected):
    result = command("render", f"ckpt={ckpt}", f"output_dir={tmp_path / 'out'}", *arguments)
    assert result.code == 1
    assert expected in result.err
    assert len(result.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_squares_keep_their_size(command, trained, tmp_path):
    result = command("render", f"ckpt={trained}", "height=64", f"output_dir={tmp_path / 'out'}")
    assert result.code == 1
    assert "renders squares of one size" in result.err
