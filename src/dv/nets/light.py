"""The sRGB transfer function and its inverse (IEC 61966-2-1), for values outside [0, 1] too.

Light adds up; the numbers in pictures are not light but its sRGB code. kornia's functions have no gradient below zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

TOE, SLOPE = 0.04045, 12.92  # below the code TOE, light is the code through SLOPE


def decoded(code: Tensor) -> Tensor:
    """Linear light of sRGB code, of any shape; the toe's line goes on below zero, the power above one."""
    return torch.where(code > TOE, ((code.clamp_min(TOE) + 0.055) / 1.055) ** 2.4, code / SLOPE)


def encoded(light: Tensor) -> Tensor:
    """sRGB code of linear light, the inverse of :func:`decoded`."""
    toe = TOE / SLOPE
    return torch.where(light > toe, 1.055 * light.clamp_min(toe) ** (1 / 2.4) - 0.055, light * SLOPE)
