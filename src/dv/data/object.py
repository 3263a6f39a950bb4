"""All views of one object, split for training, validation and test."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from dv.config.shared import ObjectConfig
from dv.data.calibration import Calibration, read_calibration
from dv.data.folder import Views, image_files, read_sizes, read_views
from dv.data.reading import MAX_PIXELS, ImageReading
from dv.data.record import read_record
from dv.data.view_selection import hold_out, perturb, thin
from dv.decoding import image_size
from dv.errors import UserError
from dv.geometry.camera import Intrinsics

log = logging.getLogger(__name__)
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ObjectSource:
    """Where an object lies and how to read it; the fields are the ``object`` and ``data`` configuration.

    ``image_side`` and ``longest_side`` are those of :class:`~dv.data.reading.ImageReading`.
    """

    root: Path
    name: str
    how_to_get: str = ""
    image_side: int | Literal["auto"] | None = None
    longest_side: int | None = None
    background: str | list[float] = "white"
    skip: int = 0
    training_views: int | None = None  # this many, far apart
    noise_angle: float = 0.0  # degrees that training poses are turned by, about random axes
    noise_distance: float = 0.0  # world units that they are moved by, in random directions
    noise_seed: int = 0
    pixel_center: float | None = None  # None: what the folder's dataset.json says, 0 without one
    splits: dict[str, Views] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_config(cls, config: ObjectConfig, **reading: Any) -> Self:
        """Make the source of the ``object`` group; ``reading`` are further fields.

        Raises:
            UserError: if root or name is not set.
        """
        for key in ("root", "name"):
            if not getattr(config, key):
                raise UserError(
                    f"object.{key} is not set; give object=… or object=custom object.root=DIR object.name=NAME"
                )
        return cls(
            Path(str(config.root)),
            str(config.name),
            config.how_to_get or "",
            pixel_center=config.pixel_center,
            **reading,
        )

    def folder(self, split: str) -> Path:
        """Return the folder of a split, ``<root>/<split>/<name>``."""
        return self.root / split / self.name

    def calibration(self, split: str = "train") -> Calibration:
        """Read camera and grid placement from the folder of a split.

        Raises:
            UserError: if the folder is missing, with how to get the object; or if its ``intrinsics.txt`` is faulty.
        """
        self._require_folder(split)
        calibration = read_calibration(self.folder(split) / "intrinsics.txt", self.pixel_center)
        if self.noise_angle or self.noise_distance:  # points tell the true poses
            return replace(calibration, points=None)
        return calibration

    def calibration_of(self, split: str) -> Calibration:
        """Read camera and grid placement of the views of a split: those of ``train`` if it is held out from there."""
        return self.calibration(split if self.folder(split).is_dir() else "train")

    def up(self) -> Tensor | None:
        """Return the world's up direction ``[3]`` if the training split's ``dataset.json`` contains it."""
        record = read_record(self.folder("train"))
        return torch.tensor(record["up"], dtype=torch.float64) if record.get("up") else None

    def unit(self) -> str | None:
        """Return the unit of the world, ``metre``, if the training split's ``dataset.json`` contains it."""
        return read_record(self.folder("train")).get("unit")

    def _require_folder(self, split: str) -> None:
        if not self.folder(split).is_dir():
            hint = f"; {self.how_to_get}" if self.how_to_get else ""
            raise UserError(f"no object at {self.folder(split)}{hint}")

    def views(self, split: str) -> Views:
        """Return the views of ``train``, ``validation`` or ``test``, which are read once.

        If ``validation`` or ``test`` has no folder, every tenth training view is held out for it.

        Raises:
            UserError: for an unknown split, a missing object, or with every fault of the folders.
        """
        if split not in SPLITS:
            raise UserError(f"split={split} must be one of {', '.join(SPLITS)}")
        if not self.splits:
            self._read()
        if split not in self.splits:
            self.splits[split] = self.read(split)
        return self.splits[split]

    def read(self, split: str) -> Views:
        """Read all views in the folder of a split; see :func:`~dv.data.folder.read_views`."""
        return read_views(self.folder(split), self.reading, self.background, self.pixel_center)

    @cached_property
    def reading(self) -> ImageReading:
        """At which size the images of all splits are read, which the training images determine."""
        sizes = read_sizes(image_files(self.folder("train") / "rgb"), []).values()
        reading = ImageReading(self.image_side, self.longest_side)
        if self.image_side == "auto" and sizes:
            smallest = min(sizes, key=min)
            return replace(reading, image_side=reading.camera(Intrinsics(1.0, 1.0, 0.0, 0.0, *smallest)).width)
        factor = reading.fitting_factor(sizes)
        if factor < 1:
            log.info("%s: all images are reduced by %.3f, so that those of the training have %d million pixels",
                     self.folder("train"), factor, MAX_PIXELS // 10**6)  # fmt: skip
        return replace(reading, factor=factor)

    def cameras(self, split: str, names: list[str]) -> list[Intrinsics]:
        """Return the cameras of views at the size at which images are read; the images themselves may be missing."""
        calibration, files = self.calibration_of(split), image_files(self.folder(split) / "rgb")
        sizes = {name: image_size(files[name]) for name in names if name in files}
        return [self.reading.camera(calibration.camera(name), sizes.get(name)) for name in names]

    def _read_folders(self) -> Views:
        """Read the training views, and the validation views if they have a folder, to report the faults of both."""
        self._require_folder("train")
        problems = []
        for split in ("train", "validation"):
            if self.folder(split).is_dir():
                try:
                    self.splits[split] = self.read(split)
                except UserError as error:
                    problems.append(str(error))
        if problems:
            self.splits.clear()
            raise UserError("; ".join(problems))
        return self.splits["train"]

    def trained_views(self, poses: Tensor) -> list[int]:
        """Return which of the views in the training folder, with poses ``[V, 4, 4]``, are trained on."""
        kept = self._held_out(len(poses))["train"]
        return [kept[i] for i in thin(poses[kept].numpy(), every=self.skip + 1, farthest=self.training_views)]

    def _held_out(self, count: int) -> dict[str, list[int]]:
        """Return the views of each split that has no folder, and what is left to train on."""
        return hold_out(count, [split for split in SPLITS if not self.folder(split).is_dir()])

    def _read(self) -> None:
        """Fill ``splits`` with the training views and those held out from them."""
        train = self._read_folders()
        held_out = self._held_out(len(train))
        del held_out["train"]
        for split, indices in held_out.items():
            if not indices:
                raise UserError(
                    f"{self.folder(split)} does not exist and {len(train)} training views are too few to hold out "
                    f"every tenth for it; add a {split} folder"
                )
            log.warning("%s does not exist: held out %d training views for it", self.folder(split), len(indices))
            self.splits[split] = train.select(indices)
        kept = self.trained_views(train.poses)
        if len(kept) < 2:
            raise UserError(f"{self.folder('train')}: {len(kept)} training views are left, at least 2 are needed")
        chosen = train.select(kept) if self.skip or self.training_views else train.compact(kept)
        noisy = perturb(chosen.poses.numpy(), self.noise_angle, self.noise_distance, self.noise_seed)
        self.splits["train"] = replace(chosen, poses=torch.from_numpy(noisy))
