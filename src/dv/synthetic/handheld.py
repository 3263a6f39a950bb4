"""Poses along the path of a handheld camera around a table, and its automatic exposure."""

import numpy as np

from dv.synthetic.shapes import Array

_TARGET = np.array([0.0, 0.0, -0.1])  # about the middle of the still life
_CENTRE, _HALF_ARC = np.radians([45.0, 120.0])  # azimuths, with the room's corner behind the table
_LARGEST = 5 / 3  # exposure change in standard deviations: ±0.25 stops at 0.15


def upright_pose(position: Array, target: Array) -> Array:
    """Return the pose ``[4, 4]`` (OpenCV axes) of an upright camera at ``position`` that faces ``target``, z up."""
    import torch

    from dv.geometry.trajectory import look_at

    up = torch.tensor([0, 0, 1], dtype=torch.float64)
    return look_at(torch.from_numpy(position), torch.from_numpy(target), up).numpy()


def handheld_path(count: int, seed: int) -> Array:
    """Return poses ``[count, 4, 4]`` in the order of a walk along an arc of 240° and back: low first, then higher.

    The distance is about 1.75 except in two places, where the camera comes near. Position, aim and roll sway, and jump
    a little from view to view.

    Args:
        count: Number of views.
        seed: Of the swaying.
    """
    rng = np.random.default_rng([seed, 3])
    s = (np.arange(count) + 0.5) / count

    def sway(axes: int, jitter: float = 0.15) -> Array:
        """Return smooth noise ``[count, axes]`` of standard deviation about 1, with jumps."""
        waves = sum(np.sin(2 * np.pi * (cycles * s[:, None] + rng.random(axes))) for cycles in (2, 3, 5, 8))
        return np.asarray(waves / np.sqrt(2) + jitter * rng.normal(size=(count, axes)))

    triangle = np.arcsin(np.sin(2 * np.pi * (s - 0.25))) * 2 / np.pi  # -1, 1 at half time, and -1
    azimuth = _CENTRE + _HALF_ARC * triangle + 0.04 * sway(1)[:, 0]
    elevation = np.radians(27 - 14 * np.sin(2 * np.pi * s)) + 0.04 * sway(1)[:, 0].clip(-2, 2)
    near = np.exp(-(((s - 0.31) / 0.04) ** 2)) + np.exp(-(((s - 0.68) / 0.04) ** 2))
    distance = 1.75 - 0.62 * near + 0.08 * sway(1)[:, 0].clip(-2, 2)
    ring = distance * np.cos(elevation)
    positions = np.stack([ring * np.cos(azimuth), ring * np.sin(azimuth), distance * np.sin(elevation)], axis=1)
    targets = _TARGET + 0.06 * sway(3).clip(-2, 2)
    poses = np.stack([upright_pose(a, b) for a, b in zip(_TARGET + positions, targets, strict=True)])
    roll = np.radians(2.0) * sway(1)[:, 0]
    turns = np.tile(np.eye(4), (count, 1, 1))
    turns[:, 0, 0] = turns[:, 1, 1] = np.cos(roll)
    turns[:, 1, 0], turns[:, 0, 1] = np.sin(roll), -np.sin(roll)
    return np.asarray(poses @ turns)


def split_path(train: int, validation: int, test: int) -> dict[str, Array]:
    """Return the indices of each split on one path: test and validation views lie evenly between training views.

    >>> {split: indices.tolist() for split, indices in split_path(6, 1, 2).items()}
    {'train': [0, 2, 3, 5, 6, 8], 'validation': [4], 'test': [1, 7]}
    """
    count, held = train + validation + test, validation + test
    held_out = ((np.arange(held) + 0.5) * count / held).astype(int)
    validating = held_out[((np.arange(validation) + 0.5) * held / validation).astype(int)]
    return {
        "train": np.setdiff1d(np.arange(count), held_out),
        "validation": validating,
        "test": np.setdiff1d(held_out, validating),
    }


def exposure_stops(count: int, deviation: float, seed: list[int]) -> Array:
    """Return the exposures ``[count]`` of views as powers of two: normal, at most 5/3 standard deviations from 0."""
    return np.random.default_rng(seed).normal(size=count).clip(-_LARGEST, _LARGEST) * deviation
