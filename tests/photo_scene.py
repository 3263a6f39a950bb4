"""Photographs of a textured box on a textured table, taken with any lens: ground truth for structure from motion."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from dv.geometry.trajectory import look_at
from dv.prepare.lens import Lens

HALF = np.array([0.3, 0.2, 0.25])  # half sides of the box, which stands on the table z = 0
TABLE = 4.0  # side of the table


def texture(seed: int, finest: int, side: int = 512) -> np.ndarray:
    """Return random colours ``[side, side, 3]`` with detail at every scale, up to ``finest`` cells per side."""
    rng = np.random.default_rng(seed)
    image = np.zeros((side, side, 3), np.float32)
    for cells, weight in ((finest // 16, 1.0), (finest // 4, 0.9), (finest, 0.8)):
        noise = rng.random((cells, cells, 3)).astype(np.float32)
        image += weight * cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
    image -= image.min()
    return image / image.max()


FACES = [texture(seed, 32) for seed in range(6)]
GROUND = texture(9, 200, 2048)


def sample_texture(image: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return bilinearly interpolated colours at ``u``, ``v`` in [0, 1]."""
    x, y = u * (image.shape[1] - 1), v * (image.shape[0] - 1)
    columns, rows = (z.astype(int).clip(0, n - 2) for z, n in ((x, image.shape[1]), (y, image.shape[0])))
    a, b = ((x - columns)[:, None].clip(0, 1), (y - rows)[:, None].clip(0, 1))
    top = image[rows, columns] * (1 - a) + image[rows, columns + 1] * a
    return top * (1 - b) + (image[rows + 1, columns] * (1 - a) + image[rows + 1, columns + 1] * a) * b


def render_scene(pose: np.ndarray, lens: Lens, *, table: bool = True) -> np.ndarray:
    """Render the scene, optionally without the table, as RGBA ``[H, W, 4]`` in [0, 1]; alpha is 1 on surfaces."""
    columns, rows = np.meshgrid(np.arange(lens.width), np.arange(lens.height))
    directions = lens.unproject(np.stack([columns.ravel(), rows.ravel()], 1).astype(float))
    rays = np.concatenate([directions, np.ones((len(directions), 1))], 1) @ pose[:3, :3].T
    start = pose[:3, 3] - np.array([0, 0, HALF[2]])
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.stack([(-HALF - start) / rays, (HALF - start) / rays])
        enter, leave = ends.min(0), ends.max(0)
        face = enter.argmax(1)
        t = enter.max(1)
        hit = (t < leave.min(1)) & (t > 0)
        ground = -pose[2, 3] / rays[:, 2]
    image = np.zeros((len(rays), 4), np.float32)
    point = start + t[:, None] * rays
    for axis in range(3):
        u_axis, v_axis = [a for a in range(3) if a != axis]
        for sign in (0, 1):
            on = hit & (face == axis) & ((point[:, axis] > 0) == bool(sign))
            u, v = ((point[on, a] / HALF[a] + 1) / 2 for a in (u_axis, v_axis))
            image[on, :3] = sample_texture(FACES[2 * axis + sign], u, v) if on.any() else 0
            image[on, 3] = 1
    if table:
        floor = pose[:3, 3] + ground[:, None] * rays
        on = ~hit & (ground > 0) & (np.abs(floor[:, :2]).max(1) < TABLE / 2)
        image[on, :3] = sample_texture(GROUND, *(floor[on, a] / TABLE + 0.5 for a in range(2)))
        image[on, 3] = 1
        image[~hit & ~on] = (0.6, 0.6, 0.65, 1)
    return image.reshape(lens.height, lens.width, 4)


def handheld_pose(azimuth: float, elevation: float, distance: float, seed: int) -> np.ndarray:
    """Return the pose of a handheld camera, roughly aimed at the box and roughly level."""
    rng = np.random.default_rng(seed)
    a, e = np.radians([azimuth, elevation])
    eye = distance * np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)]) + (0, 0, HALF[2])
    target = np.array([0, 0, HALF[2]]) + 0.05 * rng.normal(size=3)
    up = np.array([0, 0, 1.0]) + 0.05 * rng.normal(size=3)
    return look_at(*(torch.tensor(x) for x in (eye, target, up))).numpy()


def poses_around(count: int, distance: tuple[float, float] = (1.7, 2.0), arc: float = 360) -> list[np.ndarray]:
    """Return poses of a handheld camera around the box."""
    rng = np.random.default_rng(0)
    return [handheld_pose(arc * i / count, rng.uniform(20, 45), rng.uniform(*distance), i) for i in range(count)]


def write_jpeg(path: Path, image: np.ndarray, *, sideways: bool = False, focal_35mm: float | None = None) -> None:
    """Write RGB as JPEG; ``sideways`` stores it rotated, with the EXIF orientation that undoes the rotation."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Maker", "Phone"
    pixels = (image[..., :3] * 255).round().astype(np.uint8)
    if sideways:
        exif[0x0112] = 6
        pixels = np.rot90(pixels)
    if focal_35mm:
        exif.get_ifd(0x8769)[0xA405] = round(focal_35mm)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, quality=95, exif=exif)


def alignment_errors(ours: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return errors of poses ``[V, 4, 4]`` after the best similarity alignment of their centres (Umeyama 1991).

    The errors are distances in units of ``truth`` and angles in degrees; the alignment's rotation and scale follow.
    """
    a, b = ours[:, :3, 3], truth[:, :3, 3]
    u, s, vt = np.linalg.svd((a - a.mean(0)).T @ (b - b.mean(0)))
    signs = np.array([1, 1, np.sign(np.linalg.det(vt.T @ u.T))])
    rotation = vt.T @ np.diag(signs) @ u.T
    scale = float((s * signs).sum() / ((a - a.mean(0)) ** 2).sum())
    distances = np.linalg.norm(scale * (a - a.mean(0)) @ rotation.T + b.mean(0) - b, axis=1)
    difference = np.einsum("vji,vjk->vik", rotation @ ours[:, :3, :3], truth[:, :3, :3])
    cosines = (np.trace(difference, axis1=1, axis2=2) - 1) / 2
    return distances, np.degrees(np.arccos(cosines.clip(-1, 1))), rotation, scale
