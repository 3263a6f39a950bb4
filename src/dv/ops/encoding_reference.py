"""Encoding of rays in tensor operations: what :func:`dv.ops.encoding.encode` computes."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dv.ops.harmonics import spherical_harmonics

MIN_NORMAL_LENGTH = 1e-3  # shorter composited normals are not scaled to unit length
REFLECTED_SCALE = 0.25  # of the harmonics of reflected directions: with 1, diffuse surfaces are learned more slowly
VIEW_SCALE = 0.25  # of the view-dependent harmonics: the diffuse colour is learned first, four times as fast


class Degrees(NamedTuple):
    """Degrees of spherical harmonics, each 0 to 4.

    Args:
        view: of the colour that features are coefficients of.
        direction: of the encoded direction.
        reflection: of the encoded direction that is reflected at the normal; 0: there are no normals.
    """

    view: int
    direction: int
    reflection: int


class Encoded(NamedTuple):
    """The colours ``[R, 3]`` of R rays, and the inputs ``[R, D]`` of their decoder."""

    colors: Tensor
    inputs: Tensor


def encode_reference(features: Tensor, directions: Tensor, degrees: Degrees) -> Encoded:
    """Encode in tensor operations, see :func:`dv.ops.encoding.encode`."""
    basis = spherical_harmonics(directions, max(degrees.view, degrees.direction))
    colors = view_color(features, basis, degrees.view)
    encoding = [basis[:, 1 : (degrees.direction + 1) ** 2]]
    inputs = features
    if degrees.reflection:
        inputs, normals = features[:, :-3], F.normalize(features[:, -3:], dim=1, eps=MIN_NORMAL_LENGTH)
        cosine = (directions * normals).sum(1, keepdim=True)
        reflected = spherical_harmonics(directions - 2 * cosine * normals, degrees.reflection)
        encoding += [cosine, REFLECTED_SCALE * reflected[:, 1:]]
    return Encoded(colors, torch.cat([inputs, *encoding], 1))


def view_color(features: Tensor, basis: Tensor, degree: int) -> Tensor:
    """Sum harmonics of a degree, ``basis`` ``[R, …]``, times their coefficients, which come first in ``features``.

    Returns:
        RGB ``[R, 3]``.
    """
    count = (degree + 1) ** 2
    harmonics = torch.cat([basis[:, :1], VIEW_SCALE * basis[:, 1:count]], 1)
    return (features[:, : 3 * count].reshape(-1, count, 3) * harmonics[..., None]).sum(1)
