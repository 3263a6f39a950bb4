"""Images as cameras, phones and editors write them are decoded to the colours that viewers show."""

import io
import random
from contextlib import suppress

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from camera_files import mutated
from dv.decoding import IMAGE_SUFFIXES, image_header, is_plain_file, read_image, read_pixels
from dv.errors import UserError

PICTURE = np.zeros((12, 20, 3), np.uint8)
PICTURE[..., 0] = np.linspace(0, 255, 20)
PICTURE[..., 1] = np.linspace(255, 0, 12)[:, None]
PICTURE[..., 2] = 90
ALPHA = np.full((12, 20), 255, np.uint8)
ALPHA[:, :5], ALPHA[:, 5:8] = 0, 100
PINK = np.array([1.0, 0.5, 0.5])


def close(path, expected, tolerance=0.006, **options):
    image = read_image(path, PINK, **options)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, expected, atol=tolerance)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm", ".webp", ".jpg", ".JPEG", ".heic", ".avif"])
def test_eight_bits(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    options = {"lossless": True} if suffix == ".webp" else {}
    exact = suffix in (".png", ".bmp", ".tif", ".ppm", ".webp")
    smooth = PICTURE if exact else np.asarray(Image.fromarray(PICTURE).resize((200, 120)))
    Image.fromarray(smooth).save(path, **({"quality": 98, "subsampling": 0} if suffix.lower() in (".jpg", ".jpeg") else
                                          {"quality": 95} if not exact else options))  # fmt: skip
    close(path, smooth / 255, tolerance=0.002 if exact else 0.06)
    assert suffix.lower() in IMAGE_SUFFIXES


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits(suffix, channels, tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (12, 20, channels)).astype(np.uint16)
    path = tmp_path / f"deep{suffix}"
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    path.write_bytes(cv2.imencode(suffix, values[..., order].squeeze())[1].tobytes())
    color = values[..., :3] / 65535
    if channels == 4:
        alpha = values[..., 3:] / 65535
        color = color * alpha + PINK * (1 - alpha)
    close(path, np.broadcast_to(color, (12, 20, 3)), tolerance=1e-4)


def rgba() -> Image.Image:
    return Image.fromarray(np.dstack([PICTURE, ALPHA]))


TRANSPARENT = {
    "palette": lambda path: rgba().quantize(200).save(path),
    "palette, WebP": lambda path: rgba().save(path.with_suffix(".webp"), lossless=True),
    "RGBA": lambda path: rgba().save(path),
    "grey": lambda path: Image.fromarray(np.dstack([PICTURE[..., 0], ALPHA]), "LA").save(path),
    "TIFF": lambda path: rgba().save(path.with_suffix(".tif")),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_what_is_transparent_shows_the_background(kind, tmp_path):
    TRANSPARENT[kind](tmp_path / "a.png")
    (path,) = tmp_path.iterdir()
    image = read_image(path, PINK)
    color = (PICTURE if kind != "grey" else np.repeat(PICTURE[..., :1], 3, 2)) / 255
    alpha = ALPHA[..., None] / 255
    np.testing.assert_allclose(image[:, :5], np.broadcast_to(PINK, (12, 5, 3)), atol=1e-3)
    np.testing.assert_allclose(image, color * alpha + PINK * (1 - alpha), atol=0.12 if "palette" in kind else 0.01)
    assert not is_plain_file(path)


@pytest.mark.parametrize(("mode", "transparent"), [("RGB", (0, 255, 90)), ("L", 10), ("P", 0)])
def test_one_transparent_colour(mode, transparent, tmp_path):
    image = Image.fromarray(PICTURE)
    image = image.quantize(8) if mode == "P" else image.convert(mode)
    if mode == "L":
        image.putpixel((3, 3), transparent)
    image.save(tmp_path / "a.png", transparency=transparent)
    read = read_pixels(tmp_path / "a.png")
    assert read.shape[2] == 4
    assert set(np.unique(read[..., 3])) == {0, 255}


def test_a_bitmap_of_one_bit(tmp_path):
    Image.fromarray(PICTURE[..., 0] > 100).save(tmp_path / "mask.png")
    close(tmp_path / "mask.png", np.repeat((PICTURE[..., :1] > 100).astype(float), 3, 2))


def test_cmyk(tmp_path):
    Image.fromarray(PICTURE).convert("CMYK").save(tmp_path / "print.jpg", quality=98)
    close(tmp_path / "print.jpg", PICTURE / 255, tolerance=0.15)


def test_other_colour_profiles_become_srgb(tmp_path):
    """A profile with red and green exchanged shows whether it is applied."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    plain = tmp_path / "srgb.png"
    Image.fromarray(PICTURE).save(plain, icc_profile=srgb.tobytes())
    close(plain, PICTURE / 255, tolerance=1e-6)
    assert is_plain_file(plain)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    transform = ImageCms.buildTransform(srgb, lab, "RGB", "LAB")
    assert ImageCms.applyTransform(Image.fromarray(PICTURE), transform).mode == "LAB"
    data = bytearray(srgb.tobytes())
    red, green = data.index(b"rXYZ"), data.index(b"gXYZ")
    data[red : red + 4], data[green : green + 4] = b"gXYZ", b"rXYZ"
    data = data.replace(b"sRGB built-in", b"exchanged 1.0")
    data = data.replace("sRGB built-in".encode("utf-16-be"), "exchanged 1.0".encode("utf-16-be"))
    exchanged = tmp_path / "exchanged.png"
    Image.fromarray(PICTURE).save(exchanged, icc_profile=bytes(data))
    assert not is_plain_file(exchanged)
    close(exchanged, PICTURE[..., [1, 0, 2]] / 255, tolerance=0.02)
    damaged = tmp_path / "damaged.png"
    Image.fromarray(PICTURE).save(damaged, icc_profile=b"no profile")
    close(damaged, PICTURE / 255, tolerance=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_every_exif_orientation(suffix, orientation, tmp_path):
    """Compared with Pillow's own transposition."""
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    Image.fromarray(PICTURE).save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    header = image_header(path)
    assert header.size == (20, 12)
    assert header.upright_size == expected.shape[1::-1]
    np.testing.assert_array_equal(read_pixels(path, upright=True), expected)
    assert read_pixels(path).shape == (12, 20, 3)
    assert is_plain_file(path) == (orientation == 1 and suffix != ".webp")


@pytest.mark.parametrize("suffix", [".tif", ".heic"])
def test_formats_that_are_always_upright(suffix, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PICTURE).save(tmp_path / f"a{suffix}", exif=exif)
    header = image_header(tmp_path / f"a{suffix}")
    assert header.size == header.upright_size == read_pixels(tmp_path / f"a{suffix}").shape[1::-1]


def test_the_first_frame_of_several(tmp_path):
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (10, 200)]
    for suffix in (".tif", ".png", ".webp"):
        frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
        assert read_pixels(tmp_path / f"a{suffix}").max() < 20


def test_numbers_that_are_no_colours_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 3.5, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"numbers outside 0..1; save it with 8 or 16 bits"):
        read_pixels(tmp_path / "a.tif")
    Image.fromarray(np.full((4, 4), 70000, np.int32)).save(tmp_path / "b.tif")
    with pytest.raises(UserError, match="save it with 8 or 16 bits"):
        read_pixels(tmp_path / "b.tif")


def test_camera_raw(tmp_path):
    pytest.importorskip("rawpy")
    write_dng(tmp_path / "IMG_1.DNG", 64, 48)
    assert image_header(tmp_path / "IMG_1.DNG").size == (64, 48)
    image = read_pixels(tmp_path / "IMG_1.DNG")
    assert image.shape == (48, 64, 3)
    left, right = image[:, 8:24].mean((0, 1)), image[:, 40:56].mean((0, 1))
    assert left[0] > 2 * left[2]  # red
    assert right[2] > 2 * right[0]  # blue


def write_dng(path, width: int, height: int) -> None:
    """A raw file of a sensor in the pattern red green / green blue: its left half red, its right half blue."""
    from PIL import TiffImagePlugin

    mosaic = np.full((height, width), 2000, np.uint16)
    mosaic[0::2, 0 : width // 2 : 2] = 40000
    mosaic[1::2, width // 2 + 1 :: 2] = 40000
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[50706], tags.tagtype[50706] = bytes([1, 4, 0, 0]), 1  # DNGVersion
    tags[50708], tags.tagtype[50708] = "dv test", 2  # UniqueCameraModel
    tags[33421], tags.tagtype[33421] = (2, 2), 3  # CFARepeatPatternDim
    tags[33422], tags.tagtype[33422] = bytes([0, 1, 1, 2]), 1  # CFAPattern
    rational = TiffImagePlugin.IFDRational
    identity = tuple(rational(int(i % 4 == 0), 1) for i in range(9))
    tags[50721], tags.tagtype[50721] = identity, 10  # ColorMatrix1
    tags[50778], tags.tagtype[50778] = 21, 3  # CalibrationIlluminant1: D65
    buffer = io.BytesIO()
    Image.fromarray(mosaic).save(buffer, "TIFF", tiffinfo=tags)
    data = buffer.getvalue()
    with_cfa = bytearray(data)
    order = "<" if data[:2] == b"II" else ">"
    ifd = int.from_bytes(data[4:8], "little" if order == "<" else "big")
    entries = int.from_bytes(data[ifd : ifd + 2], "little" if order == "<" else "big")
    for i in range(entries):
        start = ifd + 2 + 12 * i
        if int.from_bytes(data[start : start + 2], "little" if order == "<" else "big") == 262:  # photometric: mosaic
            with_cfa[start + 8 : start + 10] = (32803).to_bytes(2, "little" if order == "<" else "big")
    path.write_bytes(bytes(with_cfa))


def test_truncated_and_foreign_files(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    Image.fromarray(np.asarray(Image.fromarray(PICTURE).resize((400, 300)))).save(tmp_path / "b.jpg")
    data = (tmp_path / "b.jpg").read_bytes()
    (tmp_path / "b.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "c.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n")
    for name, reason in (("a.png", "damaged or of a kind that is not read"), ("b.jpg", "may be truncated"),
                         ("c.jpg", "run git lfs pull")):  # fmt: skip
        with pytest.raises(UserError, match=f"{name}: .*{reason}"):
            read_pixels(tmp_path / name)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".heic", ".avif", ".bmp", ".dng"])
def test_damaged_images_end_in_one_line(suffix, tmp_path):
    """Two hundred damaged copies: decoded, or refused."""
    path = tmp_path / f"a{suffix}"
    if suffix == ".dng":
        pytest.importorskip("rawpy")
        write_dng(path, 64, 48)
    else:
        exif = Image.Exif()
        exif[0x0112] = 6
        options = {} if suffix == ".bmp" else {"exif": exif}
        Image.fromarray(np.asarray(Image.fromarray(PICTURE).resize((60, 40)))).save(path, **options)
    whole = path.read_bytes()
    for seed in range(200):
        path.write_bytes(mutated(whole, random.Random(seed)))
        for read in (image_header, read_pixels, is_plain_file):
            with suppress(UserError):
                read(path)
