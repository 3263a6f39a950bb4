"""At which size the images of an object are read: squares of one side, or as they are up to a limit."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from dv.errors import UserError
from dv.geometry.camera import Intrinsics
from dv.images import largest_power_of_two

MAX_AUTO_SIDE = 512  # px, of squares
MAX_LONGEST_SIDE = 1280  # px, unless a longest side is given
MAX_PIXELS = 256_000_000  # of all training images: their colours take three bytes each


@dataclass(frozen=True)
class ImageReading:
    """How images are cropped and reduced; none are enlarged.

    Args:
        image_side: side in px to which central squares are reduced; ``auto`` for the largest power of two that the
            files allow, at most 512; None for images as they are.
        longest_side: of images as they are, px; None for at most 1280.
        factor: by which all images as they are are reduced further.
    """

    image_side: int | Literal["auto"] | None = None
    longest_side: int | None = None
    factor: float = 1.0

    def camera(self, whole: Intrinsics, size: tuple[int, int] | None = None) -> Intrinsics:
        """Return the intrinsics of an image as it is read.

        Args:
            whole: intrinsics of the whole image.
            size: width and height of the file, px; by default those of ``whole``.

        Raises:
            UserError: if the file is smaller than ``image_side``; the message does not name it.
        """
        width, height = size or (whole.width, whole.height)
        smallest, longest = min(width, height), max(width, height)
        if self.image_side is not None:
            automatic = min(MAX_AUTO_SIDE, largest_power_of_two(smallest))
            side = automatic if self.image_side == "auto" else self.image_side
            if size and side > smallest:
                raise UserError(f"{width}×{height} px is smaller than data.image_side={side}; "
                                f"use data.image_side={largest_power_of_two(smallest)}")  # fmt: skip
            return whole.central_square().at_side(side)
        k = min(1.0, (self.longest_side or MAX_LONGEST_SIDE) / longest) * self.factor
        return whole.resized(max(1, round(k * width)), max(1, round(k * height)))

    def fitting_factor(self, sizes: Iterable[tuple[int, int]]) -> float:
        """Return the factor with which images of these widths and heights have at most :data:`MAX_PIXELS` together."""
        if self.image_side is not None:
            return 1.0
        limit = self.longest_side or MAX_LONGEST_SIDE
        total = sum(w * h * min(1.0, limit / max(w, h)) ** 2 for w, h in sizes)
        return min(1.0, math.sqrt(MAX_PIXELS / max(total, 1)))
