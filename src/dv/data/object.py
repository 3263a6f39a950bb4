"""All views of one object, split for training, validation and test."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from dv.data.folder import Calibration, Views, read_calibration, read_record, read_views
from dv.data.view_selection import farthest_views, perturb
from dv.errors import UserError

log = logging.getLogger(__name__)
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ObjectSource:
    """Where an object lies and how to read it; the fields are the ``object`` and ``data`` configuration."""

    root: Path
    name: str
    how_to_get: str = ""
    image_side: int | None = None
    background: str | list[float] = "white"
    skip: int = 0
    training_views: int | None = None  # this many, far apart
    noise_angle: float = 0.0  # degrees that training poses are turned by, about random axes
    noise_distance: float = 0.0  # world units that they are moved by, in random directions
    noise_seed: int = 0
    pixel_center: float | None = None  # None: what the folder's dataset.json says, 0 without one
    splits: dict[str, Views] = field(default_factory=dict, repr=False, compare=False)

    def folder(self, split: str) -> Path:
        """Folder of a split, ``<root>/<split>/<name>``."""
        return self.root / split / self.name

    def calibration(self, split: str = "train") -> Calibration:
        """Camera and grid placement of a split. Raises :class:`UserError` saying how to get an absent object."""
        self._require(split)
        return read_calibration(self.folder(split) / "intrinsics.txt", self.pixel_center)

    def up(self) -> Tensor | None:
        """Which way is up in the world ``[3]``, if the training split's ``dataset.json`` says."""
        record = read_record(self.folder("train"))
        return torch.tensor(record["up"], dtype=torch.float64) if record.get("up") else None

    def _require(self, split: str) -> None:
        if not self.folder(split).is_dir():
            hint = f"; {self.how_to_get}" if self.how_to_get else ""
            raise UserError(f"no object at {self.folder(split)}{hint}")

    def views(self, split: str) -> Views:
        """Views of ``train``, ``validation`` or ``test``, read once.

        A split that has no folder is made of every tenth training view, which then no longer trains.
        """
        if split not in SPLITS:
            raise UserError(f"split={split} must be one of {', '.join(SPLITS)}")
        if not self.splits:
            self._read()
        if split not in self.splits:
            self.splits[split] = self.read(split, self.splits["train"].images.shape[-1])
        return self.splits[split]

    def read(self, split: str, image_side: int | None = None) -> Views:
        """The views of a split's own folder."""
        return read_views(self.folder(split), image_side, self.background, self.pixel_center)

    def _read_checked(self) -> Views:
        """Training views; the validation views too where they have a folder, so that faults of both come at once."""
        self._require("train")
        problems = []
        for split in ("train", "validation"):
            if self.folder(split).is_dir():
                try:
                    side = self.splits["train"].images.shape[-1] if "train" in self.splits else self.image_side
                    self.splits[split] = self.read(split, side)
                except UserError as error:
                    problems.append(str(error))
        if problems:
            self.splits.clear()
            raise UserError("; ".join(problems))
        return self.splits["train"]

    def _read(self) -> None:
        train = self._read_checked()
        absent = [split for split in SPLITS if not self.folder(split).is_dir()]
        held_out = {split: list(range(5 * i + 4, len(train), 10)) for i, split in enumerate(absent)}
        for split, indices in held_out.items():
            if not indices:
                raise UserError(
                    f"{self.folder(split)} does not exist and {len(train)} training views are too few to hold out "
                    f"every tenth for it; add a {split} folder"
                )
            log.warning("%s does not exist: held out %d training views for it", self.folder(split), len(indices))
            self.splits[split] = train.select(indices)
        used = {i for indices in held_out.values() for i in indices}
        kept = [i for i in range(len(train)) if i not in used][:: self.skip + 1]
        if self.training_views:
            kept = [kept[i] for i in farthest_views(train.poses[kept].numpy(), self.training_views)]
        if len(kept) < 2:
            raise UserError(f"{self.folder('train')}: {len(kept)} training views are left, at least 2 are needed")
        chosen = train.select(kept) if self.skip or self.training_views else train.compact(kept)
        if self.noise_angle or self.noise_distance:
            noisy = perturb(chosen.poses.numpy(), self.noise_angle, self.noise_distance, self.noise_seed)
            chosen = replace(chosen, poses=torch.from_numpy(noisy))
        self.splits["train"] = chosen
