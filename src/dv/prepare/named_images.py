"""Finding the image files that a camera file names, on whatever machine it was written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from dv.decoding import IMAGE_SUFFIXES
from dv.errors import UserError
from dv.runtime.foreign_files import files_in, is_left_by_system, same_name

_FREQUENT = [".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG"]
SUFFIXES = [*_FREQUENT, *sorted(IMAGE_SUFFIXES - set(_FREQUENT))]  # of names without one, in this order
NO_PHOTOGRAPHS = {"mask", "masks", "depth", "depths", "normal", "normals", "segmentation", "dynamic_masks"}
USUAL_FOLDERS = ("images", "image", "rgb", "input", ".")


def named_images(path: Path, images: Path | None) -> NamedImages:
    """Return the images of a camera file or folder: in the folder that ``source.images`` gives, or beside or above it.

    Args:
        path: of the camera file, or its folder.
        images: the given folder, also relative to that of ``path``; None for a search.

    Raises:
        UserError: if the given folder does not exist.
    """
    folder = path if path.is_dir() else path.parent
    if images is not None:
        given = next((f for f in (images, folder / images) if f.is_dir()), None)
        if given is None:
            raise UserError(f"source.images={images}: no such folder")
        return NamedImages(given, ["."])
    above = (folder, *folder.resolve().parents[:2])
    holding = (f for f in above if files_in(f, IMAGE_SUFFIXES) or any((f / u).is_dir() for u in USUAL_FOLDERS[:-1]))
    return NamedImages(next(holding, folder))


class NamedImages:
    """The images below a folder by the names that camera files give them.

    Names may have backslashes, another letter case, accents stored in another way, no suffix or another one, a folder
    that has been moved or renamed, or be absolute paths of another machine. All names of one folder are looked for in
    one folder, and those of different folders in different ones: a missing image is never replaced by a mask, a depth
    image or the image of another camera that has its name.

    Args:
        root: folder of the dataset.
        folders: where the names begin, relative to ``root`` or absolute; the first that holds a name counts.
        not_in: folders in which none of these images are.
    """

    def __init__(self, root: Path, folders: Sequence[str | Path] = USUAL_FOLDERS, not_in: Iterable[Path] = ()) -> None:
        self.root = root
        self._folders = [Path(os.path.normpath(root / folder)) for folder in folders]
        self._not_in = set(not_in)
        self._exactly_named: set[Path] = set()
        self._places: dict[tuple[str, ...], list[Path]] = {}  # by the folders in names: where these images are
        self._contested: dict[tuple[str, ...], tuple[str, ...]] = {}  # folders in names that would be one folder
        self._taken: dict[Path, str] = {}

    def expect(self, names: Iterable[str]) -> None:
        """Say all names that will be looked for, from which it follows where the folders that they name are."""
        groups: dict[tuple[str, ...], list[str]] = {}
        for name in names:
            groups.setdefault(tuple(_parts(name)[:-1]), []).append(name)
        exact = {group: [p for n in named if (p := self._exact(n)) is not None] for group, named in groups.items()}
        self._exactly_named |= {path for paths in exact.values() for path in paths}
        for group, paths in exact.items():
            if paths:
                folders = [path.parent for path in paths]
                self._places[group] = [max(set(folders), key=folders.count)]
        taken = self._not_in | {folder for places in self._places.values() for folder in places}
        known = any(self._places)  # folders with names, of which the others are no new ones
        unknown = {group: [_parts(name)[-1] for name in groups[group]] for group in groups if group not in self._places}
        for group, wanted in unknown.items():
            called = group[-1] if group and known else None
            self._places[group] = self._likely_folders(wanted, taken, called, bare=not group)
        for group, wanted in unknown.items():
            rivals = [other for other in unknown if other != group and self._places[other] == self._places[group] != []]
            if any(set(wanted) & set(unknown[other]) for other in rivals):
                self._contested[group] = rivals[0]

    def find(self, name: str) -> Path | None:
        """Return the file that ``name`` means; None if there is none.

        Raises:
            UserError: if several files could be meant, or another name means the same file.
        """
        exact = self._exact(name)
        if exact is not None:
            return exact
        *group, wanted = _parts(name)
        if tuple(group) not in self._places:
            self.expect([name])
        places = self._places[tuple(group)]
        if rival := self._contested.get(tuple(group)):
            one, other = "/".join(group) or ".", "/".join(rival) or "."
            raise UserError(f"{places[0]} could hold the images of {one} or of {other}: put them into such folders")
        if len(places) > 1:
            raise UserError(f"could be in {places[0]} or in {places[1]}; give source.images=FOLDER")
        known = [path for path in self._below(places, group) if path not in self._exactly_named]
        found = [p for p in known if same_name(p.name) == wanted] or [
            p for p in known if same_name(p.stem) in (wanted, same_name(Path(wanted).stem))
        ]
        if len(found) > 1:
            raise UserError(f"could be {found[0]} or {found[1]}; give source.images=FOLDER")
        if found and self._taken.setdefault(found[0], name) != name:
            raise UserError(f"would be the same image as {self._taken[found[0]]}, {found[0]}")
        return found[0] if found else None

    def expected(self, name: str) -> Path:
        """Return the path at which a missing image is expected, for messages."""
        folder = next((folder for folder in self._folders if folder.is_dir()), self.root)
        return folder / name

    def places(self) -> set[Path]:
        """Return the folders in which the expected images are."""
        return {folder for folders in self._places.values() for folder in folders}

    def others(self, used: Iterable[Path]) -> list[Path]:
        """Return the images beside those that are used, of the same kinds of files, which no camera belongs to."""
        used = set(used)
        folders, suffixes = {path.parent for path in used}, {path.suffix.lower() for path in used}
        beside = [path for folder in sorted(folders) for path in files_in(folder, suffixes)]
        return [path for path in beside if path not in used]

    def _exact(self, name: str) -> Path | None:
        relative = name.strip().replace("\\", "/")
        if not relative or "\0" in relative:
            return None
        for folder in self._folders:  # isfile takes names that no system allows, too
            path = os.path.normpath(folder / relative)
            suffixes = [""] if Path(path).suffix.lower() in IMAGE_SUFFIXES else SUFFIXES
            for found in (Path(path + suffix) for suffix in suffixes):
                if os.path.isfile(found) and found.parent not in self._not_in:
                    return found
        return None

    def _likely_folders(self, names: list[str], taken: set[Path], called: str | None, *, bare: bool) -> list[Path]:
        """Return the folder that holds most of the names; several if it cannot be told which of them is meant.

        Args:
            names: of images.
            taken: folders in which they are not.
            called: name of the folder; None for any.
            bare: whether they are named without folders: then images in folders below count, too.
        """
        stems = {name: same_name(Path(name).stem) for name in names}
        counts: dict[Path, int] = {}
        for folder in self._folders if bare else self._by_folder:
            if called is not None and same_name(folder.name) != called:
                continue
            if folder not in taken and same_name(folder.name) not in NO_PHOTOGRAPHS:
                paths = self._below([folder], [] if bare else [""])
                files, without = {same_name(p.name) for p in paths}, {same_name(p.stem) for p in paths}
                counts[folder] = sum(n in files or n in without or stems[n] in without for n in names)
        most = max(counts.values(), default=0)
        best = [folder for folder, count in counts.items() if count == most > 0]
        usual = [folder for folder in self._folders if folder in best]
        return usual[:1] or best

    def _below(self, places: list[Path], group: list[str]) -> list[Path]:
        """Return the images in a folder, and those below it if the names have no folders."""
        return [
            path for place in places for folder, paths in self._by_folder.items()
            if folder == place or (
                not group and place in folder.parents and folder not in self._not_in
                and same_name(folder.name) not in NO_PHOTOGRAPHS
            )
            for path in paths
        ]  # fmt: skip

    @cached_property
    def _by_folder(self) -> dict[Path, list[Path]]:
        found: dict[Path, list[Path]] = {}
        for folder, folders, names in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not is_left_by_system(Path(name)))
            paths = [Path(folder, name) for name in sorted(names)]
            images = [p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES and not is_left_by_system(p)]
            if images:
                found[Path(os.path.normpath(folder))] = images
        return found


def _parts(name: str) -> list[str]:
    parts = name.strip().replace("\\", "/").split("/")
    return [same_name(part) for part in parts if part not in ("", ".", "..")] or [""]
