"""Photographs taken with any lens become images of pinhole cameras, which project points correctly."""

from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from dv.errors import UserError
from dv.geometry.grid import GridPlacement
from dv.prepare.field_of_view import Window
from dv.prepare.lens import Lens
from dv.prepare.photographs import Photograph, unique_names
from dv.prepare.rectify import common_window, object_mask, read_masked, rectify, square_camera, target_cameras

PLACEMENT = GridPlacement((0.0, 0.0, 2.0), 0.6, 1.2)
LENSES = {
    "ideal": Lens(96, 96, 110, 110, 48, 48),
    "portrait, off-centre": Lens(90, 120, 130, 130, 47.3, 55.1),
    "pixels not square": Lens(120, 90, 120, 131, 61, 44),
    "barrel": Lens(128, 96, 110, 110, 64, 48, (-0.25, 0.06, 0.001, -0.002)),
    "pincushion": Lens(128, 128, 120, 120, 64, 64, (0.15, 0.02, 0.0, 0.0)),
    "fisheye": Lens(128, 128, 110, 110, 64, 64, (0.05, -0.01, 0.0, 0.0), fisheye=True),
}


def spots(lens: Lens, points: np.ndarray) -> np.ndarray:
    """Draw points ``[N, 3]`` as Gaussian spots where the lens sees them."""
    rows, columns = np.indices((lens.height, lens.width))
    image = np.zeros((lens.height, lens.width))
    for x, y in lens.project(points):
        image += np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 1.5**2))
    return np.repeat((image * 255).clip(0, 255).astype(np.uint8)[..., None], 3, 2)


def photograph(tmp_path, lens, point, name="a"):
    iio.imwrite(tmp_path / f"{name}.png", spots(lens, point[None]))
    return Photograph(name, tmp_path / f"{name}.png", np.eye(4), lens)


def centroid(image):
    grey = image.float().mean(0).numpy()
    grey = np.where(grey > 20, grey, 0)
    rows, columns = np.indices(grey.shape)
    return np.array([(grey * columns).sum(), (grey * rows).sum()]) / grey.sum()


@pytest.mark.parametrize("kind", LENSES)
@pytest.mark.parametrize("scale", [1, 0.5])
@pytest.mark.parametrize("crop", ["full", "square"])
def test_points_land_where_the_camera_projects_them(tmp_path, kind, scale, crop):
    lens = LENSES[kind]
    for seed in range(3):
        point = np.array([*np.random.default_rng(seed).uniform(-0.4, 0.4, 2), 2.0])
        photo = photograph(tmp_path, lens, point)
        camera = target_cameras([photo], PLACEMENT, crop)[lens]
        k = camera.resized(round(camera.width * scale), round(camera.height * scale))
        image = rectify(photo, camera, (k.width, k.height), np.ones(3), mask=None)
        assert image.shape == (3, k.height, k.width)
        assert (k.width == k.height) or crop == "full"
        expected = np.array([k.fx * point[0] / 2 + k.cx, k.fy * point[1] / 2 + k.cy]) - 0.5
        np.testing.assert_allclose(centroid(image), expected, atol=0.12)


@pytest.mark.parametrize("kind", LENSES)
def test_unproject_is_the_inverse_of_project(kind):
    lens = LENSES[kind]
    pixels = np.random.default_rng(0).uniform(0, 1, (50, 2)) * (lens.width - 1, lens.height - 1)
    rays = np.concatenate([lens.unproject(pixels), np.ones((50, 1))], 1)
    np.testing.assert_allclose(lens.project(rays * 3), pixels, atol=1e-6)


@pytest.mark.parametrize("kind", LENSES)
def test_the_image_covers_the_window(kind):
    lens = LENSES[kind]
    w = lens.window()
    x, y = np.meshgrid(np.linspace(w.left, w.right, 20), np.linspace(w.top, w.bottom, 20))
    pixels = lens.project(np.stack([x.ravel(), y.ravel(), np.ones(400)], 1))
    assert pixels.min() >= -0.5 - 1e-3
    assert (pixels <= np.array([lens.width, lens.height]) - 0.5 + 1e-3).all()


def test_an_ideal_square_image_is_unchanged(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    iio.imwrite(tmp_path / "a.png", noise)
    photo = Photograph("a", tmp_path / "a.png", np.eye(4), Lens(64, 64, 80, 80, 31.2, 33.3))
    camera = square_camera([photo], PLACEMENT, "square")
    image = rectify(photo, camera, (64, 64), np.ones(3), mask=None)
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), noise)
    np.testing.assert_allclose(camera, [80, 80, 31.2, 33.3, 64, 64, 0.5], rtol=1e-12)


def test_an_ideal_wide_image_is_only_cropped(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (60, 100, 3), np.uint8)
    iio.imwrite(tmp_path / "a.png", noise)
    pose = np.eye(4)
    pose[0, 3] = -0.3  # the grid lies to the right
    photo = Photograph("a", tmp_path / "a.png", pose, Lens(100, 60, 80, 80, 50, 30))
    camera = square_camera([photo], PLACEMENT, "square")
    left = round(camera.cx * -1 + 50)
    assert left == 32  # the grid's centre is seen at x = 62
    image = rectify(photo, camera, (60, 60), np.ones(3), mask=None)
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), noise[:, 32:92])


def test_a_lens_without_distortion_keeps_its_whole_image(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (60, 100, 3), np.uint8)
    iio.imwrite(tmp_path / "a.png", noise)
    lens = Lens(100, 60, 80, 83, 41, 33)
    photo = Photograph("a", tmp_path / "a.png", np.eye(4), lens)
    camera = target_cameras([photo], PLACEMENT, "full")[lens]
    assert camera == (80, 83, 41, 33, 100, 60, 0.5)
    image = rectify(photo, camera, (100, 60), np.ones(3), mask=None)
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), noise)


@pytest.mark.parametrize("kind", ["barrel", "pincushion", "fisheye"])
def test_a_distorted_lens_keeps_the_largest_rectangle_that_its_image_covers(kind):
    lens = LENSES[kind]
    photo = Photograph("a", Path("a.png"), np.eye(4), lens)
    k = target_cameras([photo], PLACEMENT, "full")[lens]
    assert (k.fx, k.fy) == (lens.fx, lens.fy)

    def covered(margin):
        x, y = np.meshgrid(
            (np.linspace(-margin, k.width + margin, 40) - k.cx) / k.fx,
            (np.linspace(-margin, k.height + margin, 40) - k.cy) / k.fy,
        )
        pixels = lens.project(np.stack([x.ravel(), y.ravel(), np.ones(1600)], 1))
        return pixels.min() >= -0.5 - 1e-3 and (pixels <= np.array([lens.width, lens.height]) - 0.5 + 1e-3).all()

    assert covered(0)
    assert not covered(2)


def test_the_object_crop_holds_the_ball_of_the_grid(tmp_path):
    lens = Lens(640, 480, 500, 500, 320, 240)
    poses = []
    for x in np.linspace(-0.2, 0.2, 11):
        pose = np.eye(4)
        pose[0, 3] = x
        poses.append(Photograph(f"{x}", tmp_path / "a.png", pose, lens))
    camera = square_camera(poses, PLACEMENT, "object")
    reach = (0.2 + 0.3) / 2  # farthest edge of the ball on the plane z = 1; a little less in nine of ten views
    assert 0.8 * reach < (camera.width - camera.cx) / camera.fx < 1.1 * reach
    assert camera.width == camera.height < 480
    with pytest.raises(UserError, match="source.crop=middle must be auto, full, common, square or object"):
        square_camera(poses, PLACEMENT, "middle")


def test_lenses_without_a_common_field_of_view_are_refused(tmp_path):
    a = Photograph("a", tmp_path / "a.png", np.eye(4), Lens(64, 64, 60, 60, 0, 32))
    b = Photograph("b", tmp_path / "b.png", np.eye(4), Lens(64, 64, 60, 60, 64, 32))
    with pytest.raises(UserError, match="no field of view in common"):
        common_window([a, b])
    assert common_window([a]) == Window(0.0, 64 / 60, -32 / 60, 32 / 60)


def test_an_image_of_another_size_than_its_camera_is_refused(tmp_path):
    photo = photograph(tmp_path, LENSES["ideal"], np.array([0, 0, 2.0]))
    other = Photograph("a", photo.path, np.eye(4), Lens(48, 48, 55, 55, 24, 24))
    with pytest.raises(UserError, match="a.png: 96×96 px, but its camera has 48×48"):
        rectify(other, square_camera([other], PLACEMENT, "square"), (48, 48), np.ones(3), mask=None)


@pytest.mark.parametrize("bad", [{"fx": 0}, {"width": -1}, {"cx": float("nan")}])
def test_invalid_lenses_are_refused(bad):
    with pytest.raises(UserError, match="is invalid"):
        Lens(**{"width": 10, "height": 10, "fx": 9.0, "fy": 9.0, "cx": 5.0, "cy": 5.0} | bad)


def test_extreme_distortion_is_refused():
    with pytest.raises(UserError, match="cannot be undistorted"):
        Lens(100, 100, 40, 40, 50, 50, (-5.0, 0.0, 0.0, 0.0)).window()


def rgba(tmp_path):
    image = np.zeros((40, 40, 4), np.uint8)
    image[10:30, 5:20] = (200, 100, 50, 255)
    image[10:30, 20] = (200, 100, 50, 128)
    iio.imwrite(tmp_path / "a.png", image)
    return Photograph("a", tmp_path / "a.png", np.eye(4), Lens(40, 40, 50, 50, 20, 20))


def test_masks_from_alpha_uniform_background_and_files(tmp_path):
    photo = rgba(tmp_path)
    alpha = object_mask(photo, None, "alpha")
    assert alpha[15, 10] == pytest.approx(1)
    assert alpha[15, 20] == pytest.approx(128 / 255, abs=0.01)
    assert alpha[0, 0] == 0
    scene = np.full((40, 40, 3), 0.1, np.float32)
    scene[10:30, 10:30] = 0.9
    scene[18:22, 18:22] = 0.1  # has the background's colour, but is not connected to the border
    uniform = object_mask(photo, scene, "uniform")
    assert uniform.sum() == 400
    noisy = np.random.default_rng(0).random((40, 40, 3)).astype(np.float32)
    with pytest.raises(UserError, match="border of the image does not have one colour"):
        object_mask(photo, noisy, "uniform")
    mask = np.zeros((20, 20), np.uint8)
    mask[:10] = 255
    iio.imwrite(tmp_path / "m.png", mask)
    from_file = object_mask(Photograph("a", photo.path, np.eye(4), photo.lens, tmp_path / "m.png"), scene, "files")
    assert from_file.shape == (40, 40)
    assert from_file[:18].min() == 1
    assert from_file[22:].max() == 0


def test_masked_images_have_the_background_outside_the_object(tmp_path):
    scene = np.full((40, 40, 3), 60, np.uint8)
    scene[10:30, 10:30] = (250, 200, 0)
    iio.imwrite(tmp_path / "a.png", scene)
    photo = Photograph("a", tmp_path / "a.png", np.eye(4), Lens(40, 40, 50, 50, 20, 20))
    camera = square_camera([photo], PLACEMENT, "square")
    image = rectify(photo, camera, (40, 40), np.array([0.0, 0, 1]), mask="uniform")
    assert image[:, 0, 0].tolist() == [0, 0, 255]
    assert image[:, 20, 20].tolist() == [250, 200, 0]


def test_exif_orientation_is_applied_if_required(tmp_path):
    from PIL import Image

    image = np.zeros((20, 30, 3), np.uint8)
    image[:, :15] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise for display
    Image.fromarray(image).save(tmp_path / "a.jpg", exif=exif, quality=95)
    photo = Photograph("a", tmp_path / "a.jpg", np.eye(4), Lens(20, 20, 30, 30, 10, 10))
    assert read_masked(photo, np.ones(3), mask=None).shape == (20, 30, 3)
    upright = read_masked(replace(photo, upright=True), np.ones(3), mask=None) / 255
    assert upright.shape == (30, 20, 3)
    assert upright[5].mean() > 0.9 > 0.1 > upright[25].mean()


def test_names_are_stems_or_whole_paths_where_those_collide():
    assert unique_names([Path("x/a.png"), Path("x/b.png")]) == ["a", "b"]
    assert unique_names([Path("./x/a.png"), Path("y/a.png")]) == ["x_a", "y_a"]
    with pytest.raises(UserError, match=r"occur more than once, such as a"):
        unique_names([Path("a.png"), Path("a.jpg")])
