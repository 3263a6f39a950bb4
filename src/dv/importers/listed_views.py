"""From the cameras that a file lists to photographs: what is common to the importers of such files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from dv.decoding import image_size
from dv.errors import UserError
from dv.prepare.lens import Lens
from dv.prepare.named_images import NamedImages
from dv.prepare.photographs import Photograph, PhotographSet, Problems, existing, uniquely_named
from dv.prepare.placement import Array
from dv.runtime.foreign_files import files_with

Number = Annotated[float, Field(allow_inf_nan=False)]
Pair = Annotated[list[Number], Field(min_length=2, max_length=2)]
Vector = Annotated[list[Number], Field(min_length=3, max_length=3)]
# Pose (camera-to-world [4, 4], OpenCV axes) and lens of a view, given width and height of its image as stored
Camera = Callable[[tuple[int, int]], tuple[Array, Lens]]


def photographs_of_files(
    path: Path,
    splits: Mapping[str, Mapping[str, Camera]],
    images: NamedImages,
    *,
    masks: Mapping[str, Path] | None = None,
    advice: str = "give source.images=FOLDER",
    list_others: bool = True,
) -> PhotographSet:
    """Return photographs of the cameras that a file lists, and what was left out.

    Args:
        path: of the file or folder, for messages.
        splits: cameras by split and by the name of their image, see :class:`~dv.prepare.named_images.NamedImages`.
        images: where the images are.
        masks: of the views by the name of their image.
        advice: what to do if images are missing.
        list_others: whether images beside those that are named count as left out.

    Raises:
        UserError: one that lists all cameras and images that are wrong, or if most images are missing.
    """
    problems = Problems()
    images.expect(name for cameras in splits.values() for name in cameras)
    views: dict[str, list[Photograph | Path]] = {split: [] for split in splits}
    used: dict[Path, str] = {}
    for split, cameras in splits.items():
        for name, camera in cameras.items():
            try:
                image = images.find(name)
                if image is None:
                    views[split].append(images.expected(name))
                    continue
                if used.setdefault(image, name) != name:
                    raise UserError(f"is the same image as {used[image]}")
                pose, lens = camera(image_size(image))
                mask = (masks or {}).get(name)
                views[split].append(Photograph.of_file(_relative(image, images.root), image, pose, lens, mask))
            except UserError as error:
                problems.add(name, str(error).removeprefix(f"{image}: ") if image else str(error))
    problems.raise_any(path)
    photographs, left_out, notes = existing(views, advice)
    others = images.others(used) if list_others else []
    return PhotographSet(
        {split: uniquely_named(found) for split, found in photographs.items()},
        left_out=left_out + [f"{other}: has no camera" for other in others],
        notes=notes,
    )


def _relative(image: Path, root: Path) -> str:
    return str(image.relative_to(root)) if image.is_relative_to(root) else image.name


def numbered_images(folder: Path, count: int, images: Sequence[Path], source: str) -> list[str]:
    """Return the names of sorted images that belong to the cameras of a file by their order.

    Raises:
        UserError: if there are not as many images as cameras.
    """
    if len(images) != count:
        raise UserError(
            f"{source} has {count} cameras, but {folder} {len(images)} images; they belong to each other by their "
            "order: restore the missing or remove the other images, or give source.images=FOLDER"
        )
    return [image.name for image in images]


def only_file(path: Path, suffix: str, words: Collection[str], kind: str) -> Path:
    """Return ``path`` if it is a file, else the only text file in this folder with a suffix and all ``words``.

    Raises:
        UserError: if there is none, or several; ``kind`` says of what.
    """
    if path.is_file():
        return path
    files = files_with(path, suffix, words)
    if len(files) != 1:
        raise UserError(f"{path}: has {len(files) or 'no'} {kind}; give one as source.path")
    return files[0]


def pose_of(rotation: Array, center: Array) -> Array:
    """Return the pose ``[4, 4]`` with a rotation ``[3, 3]``, camera-to-world, and the camera's place ``[3]``."""
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, center
    return pose
