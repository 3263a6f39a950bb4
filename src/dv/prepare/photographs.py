"""Posed photographs as every importer returns them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dv.data.folder import raise_problems
from dv.decoding import image_header
from dv.errors import UserError
from dv.geometry.grid import GridPlacement
from dv.prepare.field_of_view import Window
from dv.prepare.lens import Lens, same_shape
from dv.prepare.placement import Array

FARTHEST = 1e12  # world units from the origin at which a camera can be
SPLIT_WORDS = {"train": "train", "validation": "val", "test": "test"}  # in names and keys of transforms.json


@dataclass(frozen=True)
class Photograph:
    """An image file with the pose and the lens of its camera.

    Args:
        name: file stem under which the view is written.
        path: of the image.
        pose: camera-to-world ``[4, 4]``, OpenCV axes.
        lens: of the camera.
        mask: image that is white where the object is.
        stops: exposure change to apply, in powers of two.
        upright: whether ``lens`` belongs to the image with its EXIF orientation applied.
    """

    name: str
    path: Path
    pose: Array
    lens: Lens
    mask: Path | None = None
    stops: float = 0.0
    upright: bool = False

    def __post_init__(self) -> None:
        if not (np.abs(self.pose) < FARTHEST).all():
            raise UserError(f"the camera is at {self.pose[:3, 3]}, farther than {FARTHEST:g} from the origin")

    @classmethod
    def of_file(cls, name: str, path: Path, pose: Array, lens: Lens, mask: Path | None = None) -> Photograph:
        """Return a photograph with its lens at the size of the file, which may be a smaller copy.

        The sides of the lens tell whether it belongs to the image as stored or as the EXIF orientation shows it; of a
        square or upside down image they do not tell, and it is taken as stored.

        Raises:
            UserError: if the file is not an image or has another aspect ratio than the lens.
        """
        if not (0 <= lens.cx <= lens.width and 0 <= lens.cy <= lens.height):
            raise UserError(
                f"the principal point {lens.cx:g} {lens.cy:g} is outside of an image of {lens.width}×{lens.height} px; "
                "it belongs to images of another size"
            )
        header = image_header(path)
        if header.upright_size != header.size and same_shape(header.upright_size, lens) > same_shape(header.size, lens):
            return cls(name, path, pose, lens.at_size(*header.upright_size), mask, upright=True)
        return cls(name, path, pose, lens.at_size(*header.size), mask)


@dataclass(frozen=True)
class PhotographSet:
    """What an importer returns.

    Args:
        splits: photographs by split.
        points: reconstructed points ``[N, 3]``.
        placement: of the grid, if it is known already.
        reasons: sentences that explain ``placement``.
        up: which way is up, if it is known.
        provenance: for ``dataset.json``.
        left_out: what was skipped, and why.
        notes: sentences on what was unusual about the input, and how it was read.
        files: that were read besides the images.
        in_metres: whether the unit of the world is known to be the metre.
    """

    splits: dict[str, list[Photograph]]
    points: Array | None = None
    placement: GridPlacement | None = None
    reasons: list[str] = field(default_factory=list)
    up: tuple[float, float, float] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    in_metres: bool = False

    def with_more(
        self, *, notes: Sequence[str] = (), left_out: Sequence[str] = (), files: Sequence[Path] = (), **other: Any
    ) -> PhotographSet:
        """Return a copy with more notes, files and views that were left out; ``other`` fields are replaced."""
        return replace(
            self,
            notes=[*self.notes, *notes],
            left_out=[*self.left_out, *left_out],
            files=[*self.files, *files],
            **other,
        )

    @property
    def photographs(self) -> list[Photograph]:
        """Photographs of all splits."""
        return [photograph for split in self.splits.values() for photograph in split]

    @property
    def poses(self) -> Array:
        """Poses ``[V, 4, 4]`` of all photographs."""
        return np.stack([photograph.pose for photograph in self.photographs])


def windows_of(photographs: list[Photograph]) -> list[Window]:
    """Return the field of view of every photograph, see :meth:`Lens.window`."""
    windows = {lens: lens.window() for lens in {p.lens for p in photographs}}
    return [windows[p.lens] for p in photographs]


def unique_names(relative: list[Path]) -> list[str]:
    """Choose unique names for image files: their stems, or whole paths with underscores if stems collide.

    Raises:
        UserError: if the paths collide too.
    """
    stems = [path.stem for path in relative]
    if len(set(stems)) == len(stems):
        return stems
    whole = ["_".join(part for part in path.with_suffix("").parts if part not in ("/", ".", "..")) for path in relative]
    repeated = sorted({name for name in whole if whole.count(name) > 1})
    if repeated:
        raise UserError(
            f"{len(repeated)} image names occur more than once, such as {repeated[0]}; rename the files so that each "
            "name is unique"
        )
    return whole


def uniquely_named(photographs: list[Photograph]) -> list[Photograph]:
    """Return photographs whose names are relative paths under names of :func:`unique_names`."""
    names = unique_names([Path(photograph.name) for photograph in photographs])
    return [replace(photograph, name=name) for photograph, name in zip(photographs, names, strict=True)]


class Problems:
    """Problems of an importer's files; equal problems are reported once, with the first few places."""

    def __init__(self) -> None:
        self._places: dict[str, list[str]] = {}

    def add(self, place: str, problem: str) -> None:
        """Note that ``place`` (a file or frame) has ``problem``."""
        self._places.setdefault(problem, []).append(place)

    def raise_any(self, path: Path) -> None:
        """Raise one :class:`UserError` about ``path`` with all problems, if there are any."""
        raise_problems(path, [f"{path}: {shorten(places)}: {problem}" for problem, places in self._places.items()])


def shorten(names: list[str], shown: int = 3) -> str:
    """Join the first ``shown`` names, and say how many more there are."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def existing(
    splits: Mapping[str, Sequence[Photograph | Path]], advice: str
) -> tuple[dict[str, list[Photograph]], list[str], list[str]]:
    """Leave out the views whose image is missing, and splits that have no image at all.

    Args:
        splits: views by split; of those without an image file, the path at which it was expected.
        advice: what to do if too many are missing.

    Returns:
        The photographs by split, what was left out, and a sentence for every held-out split without any image.

    Raises:
        UserError: if there are no images, or most images of the splits that have any are missing.
    """
    present = {split: [view for view in views if isinstance(view, Photograph)] for split, views in splits.items()}
    missing = {split: [view for view in views if isinstance(view, Path)] for split, views in splits.items()}
    left_out = [f"{path}: {'not a format of images that is read' if os.path.isfile(path) else 'no such file'}"
                for paths in missing.values() for path in paths]  # fmt: skip
    total = sum(map(len, splits.values()))
    if not any(present.values()):
        raise UserError(f"all {total} images are missing, such as {next(iter(left_out), 'none is named')}; {advice}")
    empty = {split: paths for split, paths in missing.items() if paths and not present[split] and split != "train"}
    some = [path for split, paths in missing.items() if split not in empty for path in paths]
    total -= sum(map(len, empty.values()))
    if 2 * len(some) > total:
        raise UserError(f"{len(some)} of {total} images are missing, such as {some[0]}; {advice}")
    notes = [f"none of the {len(paths)} {split} views has an image: there is no {split} split in these files"
             for split, paths in empty.items()]  # fmt: skip
    return {split: views for split, views in present.items() if views}, left_out, notes
