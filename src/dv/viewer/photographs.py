"""Photographs of the training views and their thumbnails, which are read when they are first needed."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch import Tensor

from dv.errors import UserError
from dv.viewer.scene import Scene

MAX_FRUSTA = 150
THUMBNAIL_SIDE = 96  # px


class Photographs:
    """Shared by all clients."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._lock = threading.Lock()
        self._thumbnails: dict[int, np.ndarray | None] = {}

    def image(self, view: int) -> Tensor:
        """Return the photograph of a view, uint8 ``[3, H, W]``.

        Raises:
            UserError: if there is none, or it cannot be read.
        """
        image = self._scene.photograph(view)
        if image is None:
            raise UserError(f"view {self._scene.cameras.names[view]} has no image")
        return image

    def thumbnails(self) -> Iterator[tuple[int, np.ndarray | None]]:
        """Yield at most 150 views, evenly spaced in their order, with thumbnails uint8 ``[H, W, 3]``, None without."""
        count = len(self._scene.cameras.names)
        for view in np.unique(np.linspace(0, count - 1, min(count, MAX_FRUSTA)).round().astype(int)).tolist():
            with self._lock:
                if view not in self._thumbnails:
                    self._thumbnails[view] = self._thumbnail(view)
            yield view, self._thumbnails[view]

    def _thumbnail(self, view: int) -> np.ndarray | None:
        try:
            image = self._scene.photograph(view)
        except UserError:
            return None  # comparing with it says what is wrong
        if image is None:
            return None
        pixels = image.permute(1, 2, 0).numpy()
        k = THUMBNAIL_SIDE / max(pixels.shape[:2])
        size = max(1, round(k * pixels.shape[1])), max(1, round(k * pixels.shape[0]))
        return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)

    @property
    def frustum_size(self) -> float:
        """Side of the frusta in units of the page, by which neighbours hardly overlap."""
        places = self._scene.cameras.poses[:, :3, 3] / self._scene.placement.scale
        distances = torch.cdist(places, places).fill_diagonal_(torch.inf).amin(1)
        return float(distances.median().nan_to_num(0.2, 0.2).clamp(0.05, 0.4)) * 0.2
