"""What a viewer shows: an object, its training views, and the model if there is one."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dv.data.folder import image_files, read_view_image
from dv.data.object import ObjectSource
from dv.data.training_cameras import TrainingCameras, read_training_cameras
from dv.geometry.grid import GridPlacement
from dv.images import background_color
from dv.object_model import ObjectModel

MAX_POINTS = 100_000
MIN_TARGET = 0.1  # of the box's side: distance from a camera to the point that it moves around


@dataclass
class Scene:
    """An object and perhaps a model of it.

    The page has units of its own, in which the box has the side 1 and the centre 0, whatever the unit of the world.

    Args:
        source: the object.
        placement: its box.
        model: what is rendered; None shows the data only.
        step: training step of the model.
        precision: in which it renders, as of ``trainer.precision``.
        resolution: rows of a frame at rest, until a client chooses others.
    """

    source: ObjectSource
    placement: GridPlacement
    model: ObjectModel | None = None
    step: int = 0
    precision: str = "32-true"
    resolution: int = 512
    _thing: ObjectModel | None = field(default=None, repr=False)

    @cached_property
    def cameras(self) -> TrainingCameras:
        """The training views."""
        return read_training_cameras(self.source)

    @property
    def draws_any_size(self) -> bool:
        """Whether smaller frames are drawn faster."""
        return self.model is not None and not self.model.squares_only

    def renderer(self, thing: bool) -> ObjectModel:
        """Return the model, or with ``thing`` a copy of it that shows only what lies in the box.

        Raises:
            ValueError: with ``thing``, if the model has no opacity.
        """
        assert self.model is not None
        if not thing:
            return self.model
        if self._thing is None:
            isolated = copy.deepcopy(self.model)
            isolated.isolate()
            self._thing = isolated
        return self._thing

    def replace_model(self, model: ObjectModel | None, step: int) -> None:
        """Show another model, or the same one after it has changed."""
        self.model, self.step, self._thing = model, step, None

    @property
    def has_opacity(self) -> bool:
        """Whether there is a model, which can show the thing alone."""
        return self.model is not None and self.model.has_opacity

    @cached_property
    def _images(self) -> dict[str, Path]:
        return image_files(self.source.folder("train") / "rgb")

    def photograph(self, view: int) -> Tensor | None:
        """Return the image of a training view, uint8 ``[3, H, W]``, as it is trained on; None if the file is missing.

        Raises:
            UserError: if the file cannot be read.
        """
        path = self._images.get(self.cameras.names[view])
        if path is None:
            return None
        color = background_color(self.source.background)
        return read_view_image(path, self.cameras.intrinsics[view], self.source.reading, color)

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Return positions in units of the page and colours uint8, ``[N, 3]`` each: the model's points, or COLMAP's."""
        if self.model is not None:
            points, colors = self.model.point_cloud(MAX_POINTS)
            return self.to_page(points.double()), (colors * 255).byte().numpy()
        triangulated = self.source.calibration().points
        positions = self.to_page(torch.empty(0, 3) if triangulated is None else triangulated.double())
        return positions, np.full((len(positions), 3), 90, np.uint8)

    def to_page(self, points: Tensor) -> np.ndarray:
        """Transform world points ``[..., 3]`` to units of the page."""
        origin = torch.tensor(self.placement.origin, dtype=points.dtype)
        moved: np.ndarray = ((points - origin) / self.placement.scale).numpy()
        return moved

    def target(self, pose: Tensor) -> np.ndarray:
        """Return the point ``[3]``, in units of the page, of a camera's optical axis that is nearest to the centre."""
        position, axis = self.to_page(pose[:3, 3]), pose[:3, 2].numpy()
        point: np.ndarray = position + max(MIN_TARGET, float(-position @ axis)) * axis
        return point

    def to_world(self, rotation: np.ndarray, position: np.ndarray) -> Tensor:
        """Return the pose ``[4, 4]`` float64 of a camera whose position ``[3]`` is in units of the page."""
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3, :3] = torch.from_numpy(np.array(rotation, np.float64))
        origin = torch.tensor(self.placement.origin, dtype=torch.float64)
        pose[:3, 3] = torch.from_numpy(np.array(position, np.float64)) * self.placement.scale + origin
        return pose
