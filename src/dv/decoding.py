"""Decoding image files of cameras, phones and image editors into RGB or RGBA."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from dv.errors import UserError

RAW_SUFFIXES = {".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw"}
IMAGE_SUFFIXES = RAW_SUFFIXES | {
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".heic", ".heif", ".hif", ".avif",
    ".ppm", ".pgm", ".pnm",
}  # fmt: skip
_UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {  # EXIF orientation: what makes the stored image upright
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image.swapaxes(0, 1)[:, ::-1],
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: image.swapaxes(0, 1)[::-1],
}
_SIDEWAYS = (5, 6, 7, 8)

pillow_heif.register_heif_opener()
Image.MAX_IMAGE_PIXELS = 1_000_000_000  # phones take 200 megapixels, which Pillow refuses as an attack
_color_management = threading.Lock()  # LittleCMS profiles are not safe to open in several threads


@dataclass(frozen=True)
class ImageHeader:
    """Size of an image file as stored, in px, and its EXIF orientation; 1: it is stored upright."""

    width: int
    height: int
    orientation: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as stored."""
        return self.width, self.height

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height once the orientation is applied."""
        return (self.height, self.width) if self.orientation in _SIDEWAYS else self.size


def image_header(path: Path) -> ImageHeader:
    """Read size and orientation of an image file without decoding its pixels.

    Raises:
        UserError: if the file is not an image.
    """
    try:
        if path.suffix.lower() in RAW_SUFFIXES:
            with _rawpy(path).imread(str(path)) as raw:
                return ImageHeader(raw.sizes.iwidth, raw.sizes.iheight)
        with Image.open(path) as image:
            return ImageHeader(*image.size, _orientation(image))
    except UserError:
        raise
    except Exception as error:  # each decoder raises its own types
        raise _unreadable(path, error) from error


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height in px of an image file as stored.

    Raises:
        UserError: if the file is not an image.
    """
    return image_header(path).size


def read_pixels(path: Path, upright: bool = False, least: tuple[int, int] | None = None) -> NDArray[Any]:
    """Decode an image file.

    Palettes, grey, CMYK and other colours become RGB, or RGBA if anything can be transparent. Colours of another
    profile than sRGB are converted to sRGB. Of several frames or pages the first is read.

    Args:
        path: the file.
        upright: whether to apply the EXIF orientation. TIFF, HEIF and camera raw are always upright.
        least: width and height in px, as stored, that suffice: of JPEG files, averages of 2×2, 4×4 or 8×8 pixels are
            decoded, which is faster.

    Returns:
        ``[H, W, 3]`` or ``[H, W, 4]``: uint8 or uint16 of the full range, or float32 in [0, 1].

    Raises:
        UserError: if the file cannot be decoded.
    """
    try:
        if path.suffix.lower() in RAW_SUFFIXES:
            with _rawpy(path).imread(str(path)) as raw:
                return np.asarray(raw.postprocess(use_camera_wb=True, no_auto_bright=True))
        with Image.open(path) as image:
            orientation = _orientation(image)
            if least and image.mode == "RGB":
                image.draft("RGB", least)
            # Pillow keeps only eight of the 16 bits of colours
            pixels = _read_16_bit(path) if ";16" in str(image.tile) and image.mode[:1] == "R" else _rgb(path, image)
    except UserError:
        raise
    except Exception as error:  # each decoder raises its own types
        raise _unreadable(path, error) from error
    return turned(pixels, orientation) if upright else pixels


def turned(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return an image ``[H, W, …]`` upright that is stored in an EXIF orientation."""
    return np.ascontiguousarray(_UPRIGHT[orientation](image)) if orientation in _UPRIGHT else image


def check_pixels(path: Path) -> None:
    """Decode an image file to see whether that is possible, without keeping its pixels.

    Raises:
        UserError: if it is not.
    """
    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:  # each decoder raises its own types
        raise _unreadable(path, error) from error


def is_plain_file(path: Path) -> bool:
    """Return whether any program shows the pixels of a file as :func:`read_pixels` returns them.

    That is so for JPEG and PNG of eight bits per channel in sRGB without transparency that are stored upright.

    Raises:
        UserError: if the file is not an image.
    """
    if path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        return False
    try:
        with Image.open(path) as image:
            profile = image.info.get("icc_profile")
            return (
                image.format in ("JPEG", "PNG")
                and image.mode == "RGB"
                and not image.has_transparency_data
                and ";16" not in str(image.tile)
                and _orientation(image) == 1
                and (not profile or _srgb_transform(profile, "RGB", "RGB") is None)
            )
    except Exception as error:  # each decoder raises its own types
        raise _unreadable(path, error) from error


def read_image(path: Path, background: np.ndarray, upright: bool = False) -> NDArray[np.float32]:
    """Decode an image file over a background.

    Args:
        path: the file, see :func:`read_pixels`.
        background: RGB in [0, 1] over which transparent pixels are composited.
        upright: whether to apply the EXIF orientation.

    Returns:
        RGB ``[H, W, 3]`` float32 in [0, 1].

    Raises:
        UserError: if the file cannot be decoded.
    """
    return over_background(read_pixels(path, upright), background)


def over_background(pixels: NDArray[Any], background: np.ndarray) -> NDArray[np.float32]:
    """Composite the result of :func:`read_pixels` over an RGB colour in [0, 1].

    Returns:
        RGB ``[H, W, 3]`` float32 in [0, 1].
    """
    image = pixels.astype(np.float32)
    if pixels.dtype.kind == "u":
        image /= np.iinfo(pixels.dtype).max
    if image.shape[2] == 3:
        return image
    color, alpha = image[..., :3], image[..., 3:]
    return np.asarray(color * alpha + background.astype(np.float32) * (1 - alpha))


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation that is still to be applied: Pillow turns TIFF and HEIF upright itself."""
    if image.format in ("TIFF", "HEIF", "AVIF") or (image.format == "PNG" and "exif" not in image.info):
        return 1  # of PNG files without the chunk before the pixels, getexif would decode the pixels to look after them
    value = image.getexif().get(ExifTags.Base.Orientation, 1)
    return value if value in _UPRIGHT else 1


def _rgb(path: Path, image: Image.Image) -> NDArray[Any]:
    """Return the pixels of an open image as uint8, uint16 or float32 RGB or RGBA."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        grey = np.asarray(image)
        if grey.dtype.kind == "f":
            grey = grey.astype(np.float32)
        elif grey.dtype != np.uint16:
            raise UserError(f"{path}: holds {grey.dtype} numbers; save it with 8 or 16 bits per channel")
        if grey.dtype.kind == "f" and not (grey.min() >= 0 and grey.max() <= 1):
            raise UserError(f"{path}: holds numbers outside 0..1; save it with 8 or 16 bits per channel")
        return np.repeat(grey.astype(grey.dtype.newbyteorder("="))[..., None], 3, 2)
    mode = "RGBA" if image.has_transparency_data else "RGB"
    profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA", "CMYK") else None
    converted = _to_srgb(image, profile, mode) if profile else None
    return np.asarray(converted or image.convert(mode))


def _to_srgb(image: Image.Image, profile: bytes, mode: str) -> Image.Image | None:
    """Convert an image of another profile than sRGB; None if it is sRGB or the profile is damaged."""
    with _color_management:
        transform = _srgb_transform(profile, image.mode, mode)
        return transform.apply(image) if transform else None


@cache
def _srgb_transform(profile: bytes, mode: str, to_mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the conversion of a profile to sRGB; None if it is sRGB, or damaged: viewers ignore it then."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return None
        return ImageCms.ImageCmsTransform(
            source, ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")), mode, to_mode
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


def _read_16_bit(path: Path) -> NDArray[Any]:
    pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.ndim != 3:
        raise ValueError("its 16-bit channels cannot be decoded")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA))


def _rawpy(path: Path) -> Any:
    try:
        import rawpy
    except ImportError:
        raise UserError(f"{path}: camera raw needs rawpy: pip install 'dv[raw]'") from None
    return rawpy


def _unreadable(path: Path, error: Exception) -> UserError:
    with path.open("rb") as file:
        if file.read(40).startswith(b"version https://git-lfs"):
            return UserError(f"{path}: only a pointer of Git LFS; run git lfs pull")
    if isinstance(error, UnidentifiedImageError):
        return UserError(f"{path}: cannot be read as an image, it is damaged or of a kind that is not read")
    reason = f" ({error})" if isinstance(error, ValueError) else ""
    return UserError(f"{path}: cannot be read as an image, it may be truncated{reason}")
