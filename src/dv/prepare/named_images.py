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
    holding = [f for f in above if any((f / usual).is_dir() for usual in USUAL_FOLDERS[:-1])]
    return NamedImages(holding[0] if holding else folder)


class NamedImages:
    """The images below a folder by the names that camera files give them.

    Names may have backslashes, another letter case, accents stored in another way, no suffix, a folder that has been
    moved or renamed, or be absolute paths of another machine.

    Args:
        root: folder of the dataset.
        folders: where the names begin, relative to ``root`` or absolute; the first that holds a name counts.
    """

    def __init__(self, root: Path, folders: Sequence[str | Path] = USUAL_FOLDERS) -> None:
        self.root = root
        self._folders = [Path(os.path.normpath(root / folder)) for folder in folders]
        self._exactly_named: set[Path] = set()

    def expect(self, names: Iterable[str]) -> None:
        """Say all names that will be looked for: a file that one of them names exactly is not taken for another."""
        self._exactly_named |= {path for name in names if (path := self._exact(name)) is not None}

    def find(self, name: str) -> Path | None:
        """Return the file that ``name`` means; None if there is none.

        Raises:
            UserError: if several files could be meant.
        """
        exact = self._exact(name)
        if exact is not None:
            return exact
        wanted = _parts(name)
        known: list[Path] = []
        for index in (self._files, self._stems):
            known = known or [
                path for path in index.get(wanted[-1], [])
                if path not in self._exactly_named and self._could_be(wanted, path)
            ]  # fmt: skip
        if len(known) > 1:
            known = self._in_first_folder(known)
        if len(known) > 1:
            raise UserError(f"{name} could be {known[0]} or {known[1]}; give source.images=FOLDER")
        return known[0] if known else None

    def expected(self, name: str) -> Path:
        """Return the path at which a missing image is expected, for messages."""
        folder = next((folder for folder in self._folders if folder.is_dir()), self.root)
        return folder / name

    def _exact(self, name: str) -> Path | None:
        relative = name.strip().replace("\\", "/")
        if not relative or "\0" in relative:
            return None
        for folder in self._folders:
            path = os.path.normpath(folder / relative)
            suffixes = [""] if Path(path).suffix.lower() in IMAGE_SUFFIXES else SUFFIXES
            if found := next((p for suffix in suffixes if (p := Path(path + suffix)).is_file()), None):
                return found
        return None

    def others(self, used: Iterable[Path]) -> list[Path]:
        """Return the images beside those that are used, of the same kinds of files, which no camera belongs to."""
        used = set(used)
        folders, suffixes = {path.parent for path in used}, {path.suffix.lower() for path in used}
        beside = [path for folder in sorted(folders) for path in files_in(folder, suffixes)]
        return [path for path in beside if path not in used]

    def _could_be(self, wanted: list[str], found: Path) -> bool:
        """Return whether the folders of a name are those of a file as far as the dataset has such folders."""
        folders = _parts(str(found.relative_to(self.root)))[:-1]
        named = [part for part in wanted[:-1] if part in self._folder_names]
        return all(part in folders for part in named)

    def _in_first_folder(self, paths: list[Path]) -> list[Path]:
        for folder in self._folders[:-1]:
            inside = [path for path in paths if folder in path.parents]
            if inside:
                return inside
        return paths

    @cached_property
    def _all(self) -> list[Path]:
        found = []
        for folder, folders, names in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not is_left_by_system(Path(name)))
            paths = (Path(folder, name) for name in sorted(names))
            found += [p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES and not is_left_by_system(p)]
        return found

    @cached_property
    def _files(self) -> dict[str, list[Path]]:
        return _grouped((same_name(path.name), path) for path in self._all)

    @cached_property
    def _stems(self) -> dict[str, list[Path]]:
        return _grouped((same_name(path.stem), path) for path in self._all)

    @cached_property
    def _folder_names(self) -> set[str]:
        return {same_name(part) for path in self._all for part in path.relative_to(self.root).parts[:-1]}


def _parts(name: str) -> list[str]:
    return [same_name(part) for part in name.strip().replace("\\", "/").split("/") if part not in ("", ".", "..")] or [
        ""
    ]


def _grouped(pairs: Iterable[tuple[str, Path]]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for key, path in pairs:
        groups.setdefault(key, []).append(path)
    return groups
