"""Encoding of rays in compiled kernels on CPUs, one ray in each lane of a vector, and its gradient."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from dv.ops.compositing_cpu import set_threads
from dv.ops.encoding_reference import MIN_NORMAL_LENGTH, REFLECTED_SCALE, VIEW_SCALE, Degrees, Encoded
from dv.ops.lanes_cpu import FASTMATH, LANES, lane_numbers, maximum, select, square_root
from dv.ops.lanes_memory_cpu import gather, gather_three, load, scatter, store

LANES_DIGEST = "1560e30e"  # of the sources of lanes: numba compiles again when it changes
RAYS_PER_BLOCK = 256
MAX_HARMONICS = 25
# factors of the third and the fourth degree, as in dv.ops.harmonics
A3, B3, C3 = math.sqrt(5 / 8), math.sqrt(3 / 8), math.sqrt(15)
A4, B4, C4, D4 = math.sqrt(35) / 2, math.sqrt(35 / 8), math.sqrt(5) / 2, math.sqrt(5 / 8)


def encode(features: Tensor, directions: Tensor, degrees: Degrees) -> Encoded:
    """Encode CPU tensors, see :func:`dv.ops.encoding.encode`.

    Raises:
        ValueError: if the decoder's inputs are 2³¹ numbers or more.
    """
    return Encoded(*_Encode.apply(features.contiguous(), directions.contiguous(), degrees))  # type: ignore[no-untyped-call]


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, directions: Tensor, degrees: Degrees) -> tuple[Tensor, Tensor]:
        set_threads()
        count, kept = len(features), features.shape[1] - 3 * (degrees.reflection > 0)
        reflected = (degrees.reflection + 1) ** 2 if degrees.reflection else 0
        width = kept + (degrees.direction + 1) ** 2 - 1 + reflected
        if count * width > torch.iinfo(torch.int32).max:
            raise ValueError(f"{count} rays are too many for CPU kernels: their encodings have 2³¹ numbers or more")
        colors, inputs = features.new_empty(count, 3), features.new_empty(count, width)
        arrays = (x.detach().numpy() for x in (features, directions, colors, inputs))
        _encode_kernel(*arrays, *degrees)
        ctx.save_for_backward(features, directions)
        ctx.degrees = degrees
        return colors, inputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        set_threads()
        features, directions = ctx.saved_tensors
        grad_features, grad_directions = torch.empty_like(features), torch.empty_like(directions)
        tensors = features, directions, *(g.contiguous() for g in gradients), grad_features, grad_directions
        _gradient_kernel(*(x.detach().numpy() for x in tensors), *ctx.degrees)
        return grad_features, grad_directions, None


@njit(cache=True, fastmath=FASTMATH)
def _harmonics(degree: Any, x: Any, y: Any, z: Any, basis: Any) -> None:
    """Fill the harmonics of lanes (x, y, z) up to a degree, :data:`LANES` values of ``basis`` for each."""
    every = lane_numbers() < LANES
    store(basis, 0, x * 0.0 + 1.0, every)
    if degree > 0:
        store(basis, LANES, x, every)
        store(basis, 2 * LANES, y, every)
        store(basis, 3 * LANES, z, every)
    xx, yy, zz, xy = x * x, y * y, z * z, x * y
    difference, p, q = xx - yy, 3.0 * xx - yy, xx - 3.0 * yy
    if degree > 1:
        store(basis, 4 * LANES, xy, every)
        store(basis, 5 * LANES, y * z, every)
        store(basis, 6 * LANES, x * z, every)
        store(basis, 7 * LANES, difference, every)
        store(basis, 8 * LANES, 3.0 * zz - 1.0, every)
    if degree > 2:
        r = 5.0 * zz - 1.0
        store(basis, 9 * LANES, A3 * y * p, every)
        store(basis, 10 * LANES, C3 * xy * z, every)
        store(basis, 11 * LANES, B3 * y * r, every)
        store(basis, 12 * LANES, z * (2.5 * zz - 1.5), every)
        store(basis, 13 * LANES, B3 * x * r, every)
        store(basis, 14 * LANES, (C3 / 2) * z * difference, every)
        store(basis, 15 * LANES, A3 * x * q, every)
    if degree > 3:
        r, s = 7.0 * zz - 1.0, z * (7.0 * zz - 3.0)
        store(basis, 16 * LANES, A4 * xy * difference, every)
        store(basis, 17 * LANES, B4 * y * z * p, every)
        store(basis, 18 * LANES, C4 * xy * r, every)
        store(basis, 19 * LANES, D4 * y * s, every)
        store(basis, 20 * LANES, zz * (4.375 * zz - 3.75) + 0.375, every)
        store(basis, 21 * LANES, D4 * x * s, every)
        store(basis, 22 * LANES, (C4 / 2) * difference * r, every)
        store(basis, 23 * LANES, B4 * x * z * q, every)
        store(basis, 24 * LANES, (A4 / 4) * (xx * q - yy * p), every)


@njit(cache=True, fastmath=FASTMATH, inline="always")
def _lanes(table: Any, k: Any) -> Any:
    return load(table, k * LANES, lane_numbers() < LANES)


@njit(cache=True, fastmath=FASTMATH)
def _harmonics_gradient(degree: Any, x: Any, y: Any, z: Any, g: Any) -> Any:
    """Gradient by (x, y, z) of the sum of harmonics up to a degree, times ``g``, laid out as :func:`_harmonics`."""
    dx, dy, dz = x * 0.0, x * 0.0, x * 0.0
    if degree > 0:
        dx, dy, dz = _lanes(g, 1), _lanes(g, 2), _lanes(g, 3)
    xx, yy, zz, xy = x * x, y * y, z * z, x * y
    difference, p, q = xx - yy, 3.0 * xx - yy, xx - 3.0 * yy
    if degree > 1:
        g4, g5, g6, g7 = _lanes(g, 4), _lanes(g, 5), _lanes(g, 6), 2.0 * _lanes(g, 7)
        dx = dx + g4 * y + g6 * z + g7 * x
        dy = dy + g4 * x + g5 * z - g7 * y
        dz = dz + g5 * y + g6 * x + 6.0 * _lanes(g, 8) * z
    if degree > 2:
        r, g9, g10, g11 = 5.0 * zz - 1.0, A3 * _lanes(g, 9), C3 * _lanes(g, 10), B3 * _lanes(g, 11)
        g13, g14, g15 = B3 * _lanes(g, 13), C3 * _lanes(g, 14), A3 * _lanes(g, 15)
        dx = dx + 6.0 * g9 * xy + g10 * y * z + g13 * r + g14 * x * z + 3.0 * g15 * difference
        dy = dy + 3.0 * g9 * difference + g10 * x * z + g11 * r - g14 * y * z - 6.0 * g15 * xy
        dz = dz + g10 * xy + 10.0 * z * (g11 * y + g13 * x) + _lanes(g, 12) * (7.5 * zz - 1.5) + 0.5 * g14 * difference
    if degree > 3:
        r, s, t, xyz = 7.0 * zz - 1.0, z * (7.0 * zz - 3.0), 21.0 * zz - 3.0, xy * z
        g16, g17, g18, g19 = A4 * _lanes(g, 16), B4 * _lanes(g, 17), C4 * _lanes(g, 18), D4 * _lanes(g, 19)
        g21, g22, g23, g24 = D4 * _lanes(g, 21), C4 * _lanes(g, 22), B4 * _lanes(g, 23), A4 * _lanes(g, 24)
        dx = dx + g16 * y * p + 6.0 * g17 * xyz + g18 * y * r + g21 * s + g22 * x * r
        dx = dx + 3.0 * g23 * z * difference + g24 * x * q
        dy = dy + g16 * x * q + 3.0 * g17 * z * difference + g18 * x * r + g19 * s - g22 * y * r
        dy = dy - 6.0 * g23 * xyz - g24 * y * p
        dz = dz + g17 * y * p + 14.0 * g18 * xyz + t * (g19 * y + g21 * x) + _lanes(g, 20) * z * (17.5 * zz - 7.5)
        dz = dz + 7.0 * g22 * z * difference + g23 * x * q
    return dx, dy, dz


@njit(cache=True, fastmath=FASTMATH, inline="always")
def _dot(a: Any, b: Any) -> Any:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit(cache=True, fastmath=FASTMATH, inline="always")
def _unit(v: Any) -> Any:
    """Unit vectors, their lengths or the least length, and whether they are at least that long."""
    length = square_root(_dot(v, v))
    bounded = maximum(length, MIN_NORMAL_LENGTH)
    return (v[0] / bounded, v[1] / bounded, v[2] / bounded), bounded, length >= MIN_NORMAL_LENGTH


@njit(cache=True, fastmath=FASTMATH)
def _encode_rays(
    first_ray: Any, last_ray: Any, features: Any, directions: Any, colors: Any, inputs: Any,
    view: Any, direction: Any, reflection: Any,
) -> None:  # fmt: skip
    channels, outputs, has_normals = features.shape[1], inputs.shape[1], reflection > 0
    kept = channels - 3 if has_normals else channels
    basis = np.empty(MAX_HARMONICS * LANES, features.dtype)
    for first in range(first_ray, last_ray, LANES):
        ray = lane_numbers() + first
        mask = ray < last_ray
        given, place = ray * channels, ray * outputs
        d = gather_three(directions, ray * 3, mask)
        _harmonics(max(view, direction), d[0], d[1], d[2], basis)
        for c in range(3):
            color = gather(features, given + c, mask)
            for k in range(1, (view + 1) ** 2):
                color = color + VIEW_SCALE * _lanes(basis, k) * gather(features, given + (3 * k + c), mask)
            scatter(colors, ray * 3 + c, color, mask)
        for c in range(kept):
            scatter(inputs, place + c, gather(features, given + c, mask), mask)
        for k in range(1, (direction + 1) ** 2):
            scatter(inputs, place + (kept + k - 1), _lanes(basis, k), mask)
        if has_normals:
            place = place + (kept + (direction + 1) ** 2 - 1)
            n = _unit(gather_three(features, given + kept, mask))[0]
            cosine = _dot(d, n)
            scatter(inputs, place, cosine, mask)
            twice = 2.0 * cosine
            _harmonics(reflection, d[0] - twice * n[0], d[1] - twice * n[1], d[2] - twice * n[2], basis)
            for k in range(1, (reflection + 1) ** 2):
                scatter(inputs, place + k, REFLECTED_SCALE * _lanes(basis, k), mask)


@njit(parallel=True, cache=True)
def _encode_kernel(
    features: Any, directions: Any, colors: Any, inputs: Any, view: Any, direction: Any, reflection: Any
) -> None:
    for block in prange(-(-len(features) // RAYS_PER_BLOCK)):
        first = block * RAYS_PER_BLOCK
        last = min(first + RAYS_PER_BLOCK, len(features))
        _encode_rays(first, last, features, directions, colors, inputs, view, direction, reflection)


@njit(cache=True, fastmath=FASTMATH)
def _gradient_of_rays(
    first_ray: Any, last_ray: Any, features: Any, directions: Any, grad_colors: Any, grad_inputs: Any,
    grad_features: Any, grad_directions: Any, view: Any, direction: Any, reflection: Any,
) -> None:  # fmt: skip
    """Fill the gradients of rays: the steps of :func:`_encode_rays` in reverse order."""
    channels, outputs, has_normals = features.shape[1], grad_inputs.shape[1], reflection > 0
    kept, coefficients = channels - 3 if has_normals else channels, 3 * (view + 1) ** 2
    basis, gradients = np.empty(MAX_HARMONICS * LANES, features.dtype), np.empty(MAX_HARMONICS * LANES, features.dtype)
    every = lane_numbers() < LANES
    for first in range(first_ray, last_ray, LANES):
        ray = lane_numbers() + first
        mask = ray < last_ray
        given, place = ray * channels, ray * outputs
        d, grad_color = gather_three(directions, ray * 3, mask), gather_three(grad_colors, ray * 3, mask)
        zero = d[0] * 0.0
        _harmonics(view, d[0], d[1], d[2], basis)
        for k in range((max(view, direction) + 1) ** 2):
            grad_harmonic = zero
            if 0 < k < (direction + 1) ** 2:
                grad_harmonic = gather(grad_inputs, place + (kept + k - 1), mask)
            if k < (view + 1) ** 2:
                scale = VIEW_SCALE if k else 1.0
                coefficient = gather_three(features, given + 3 * k, mask)
                grad_harmonic = grad_harmonic + scale * _dot(coefficient, grad_color)
                for c in range(3):
                    value = gather(grad_inputs, place + (3 * k + c), mask)
                    value = value + scale * _lanes(basis, k) * grad_color[c]
                    scatter(grad_features, given + (3 * k + c), value, mask)
            store(gradients, k * LANES, grad_harmonic, every)
        for c in range(coefficients, kept):
            scatter(grad_features, given + c, gather(grad_inputs, place + c, mask), mask)
        grad_d = _harmonics_gradient(max(view, direction), d[0], d[1], d[2], gradients)
        if has_normals:
            place = place + (kept + (direction + 1) ** 2 - 1)
            n, length, is_long = _unit(gather_three(features, given + kept, mask))
            cosine = _dot(d, n)
            for k in range(1, (reflection + 1) ** 2):
                store(gradients, k * LANES, REFLECTED_SCALE * gather(grad_inputs, place + k, mask), every)
            twice = 2.0 * cosine
            r = d[0] - twice * n[0], d[1] - twice * n[1], d[2] - twice * n[2]
            grad_r = _harmonics_gradient(reflection, r[0], r[1], r[2], gradients)
            grad_cosine = gather(grad_inputs, place, mask) - 2.0 * _dot(grad_r, n)
            grad_d = (
                grad_d[0] + grad_r[0] + grad_cosine * n[0],
                grad_d[1] + grad_r[1] + grad_cosine * n[1],
                grad_d[2] + grad_r[2] + grad_cosine * n[2],
            )
            grad_n = (
                grad_cosine * d[0] - twice * grad_r[0],
                grad_cosine * d[1] - twice * grad_r[1],
                grad_cosine * d[2] - twice * grad_r[2],
            )
            along = select(is_long, _dot(grad_n, n), 0.0)
            for axis in range(3):
                scatter(grad_features, given + (kept + axis), (grad_n[axis] - along * n[axis]) / length, mask)
        for axis in range(3):
            scatter(grad_directions, ray * 3 + axis, grad_d[axis], mask)


@njit(parallel=True, cache=True)
def _gradient_kernel(
    features: Any, directions: Any, grad_colors: Any, grad_inputs: Any, grad_features: Any, grad_directions: Any,
    view: Any, direction: Any, reflection: Any,
) -> None:  # fmt: skip
    for block in prange(-(-len(features) // RAYS_PER_BLOCK)):
        first = block * RAYS_PER_BLOCK
        _gradient_of_rays(
            first, min(first + RAYS_PER_BLOCK, len(features)), features, directions, grad_colors, grad_inputs,
            grad_features, grad_directions, view, direction, reflection,
        )  # fmt: skip
