"""``source=auto``: recognising what a file or folder holds."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dv.capture.frames import VIDEOS
from dv.decoding import IMAGE_SUFFIXES
from dv.errors import UserError
from dv.importers import bundler, co3d, llff, meshroom, metashape, neus, opensfm, polycam, realitycapture, record3d
from dv.importers.colmap import model_folders
from dv.importers.transforms import transforms_files
from dv.runtime.foreign_files import files_in, files_with, is_left_by_system, read_json, read_text

NOT_READ = {  # suffixes and names of files: what to do
    ".r3d": "unpack it, it is a zip archive, and give the folder",
    "sfm_data.bin": "convert it: openMVG_main_ConvertSfM_DataFormat -i sfm_data.bin -o sfm_data.json -V -I -E -S",
}
MESHES = {".obj", ".ply", ".glb", ".gltf", ".stl", ".off", ".3mf", ".dae"}
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class Recognised:
    """A format that a path could be read as.

    Args:
        source: name of the choice of ``source``.
        path: what to read, which may be a folder below the given one.
        sign: file or folder by which it was recognised.
        more: further overrides.
    """

    source: str
    path: Path
    sign: Path
    more: dict[str, str] = field(default_factory=dict)

    def overrides(self) -> dict[str, str]:
        """Return the overrides that read it."""
        key = "mesh.path" if self.source == "mesh" else "source.path"
        return {"source": self.source, key: str(self.path), **self.more}

    def __str__(self) -> str:
        below = self.path in self.sign.parents
        return f"source={self.source} ({self.sign.relative_to(self.path) if below else self.sign})"


def recognise(path: Path) -> tuple[Recognised, list[Recognised]]:
    """Return the format of a file or folder, and what it also could be read as.

    If a folder holds nothing that is known but one folder that does, as unpacked archives do, that is read.

    Raises:
        UserError: if the format is not known, or several folders hold some.
    """
    if not path.exists():
        raise UserError(f"source.path={path}: no such file or folder")
    found = list(_formats(path))
    if not found or found[0].source == "capture":
        _refuse_packed(path)
    if path.is_dir() and (not found or found[0].source == "capture"):
        inside = [candidates for folder in sorted(path.iterdir()) if folder.is_dir() and not is_left_by_system(folder)
                  if (candidates := [c for c in _formats(folder) if c.source != "capture"])]  # fmt: skip
        if len(inside) > 1:
            listed = ", ".join(str(candidates[0].path) for candidates in inside[:4])
            raise UserError(f"source.path={path}: holds several datasets; give one of them: {listed}")
        found = [*(inside[0] if inside else []), *found]
    if not found:
        raise UserError(
            f"source.path={path}: neither photographs, a video or a mesh, nor a format of cameras that is known here; "
            "docs/how-to/data.md lists what each source reads"
        )
    return found[0], found[1:]


def _refuse_packed(path: Path) -> None:
    for name, advice in NOT_READ.items():
        if path.name.lower().endswith(name) or (path.is_dir() and (path / name).is_file()):
            raise UserError(f"{path}: {name} is not read; {advice}")


def _formats(path: Path) -> Iterator[Recognised]:
    """Yield the formats that a file or folder holds, the surest first."""
    for source, sign in SIGNS.items():
        found = sign(path)
        if found is not None:
            yield Recognised(source, path, found)
    if path.is_dir():
        yield from _objects(path)
    if photographs := _photographs(path):
        yield Recognised("capture", path, photographs)


def _objects(path: Path) -> Iterator[Recognised]:
    """Yield the objects in dv's own layout below a folder."""
    for file in sorted(path.glob("train/*/intrinsics.txt")):
        if (file.parent / "rgb").is_dir() and (file.parent / "pose").is_dir():
            yield Recognised("folder", path, file.parent, {"source.object": file.parent.name})


def _with_words(suffix: str, *words: str) -> Callable[[Path], Path | None]:
    return lambda path: next(iter(files_with(path, suffix, words)), None)


def _transforms(path: Path) -> Path | None:
    if path.is_file():
        return next(iter(files_with(path, ".json", ('"frames"', "transform_matrix"))), None)
    return next(iter(transforms_files(path).values()), None)


def _nsvf(path: Path) -> Path | None:
    whole = (path / "rgb").is_dir() and (path / "pose").is_dir() and (path / "intrinsics.txt").is_file()
    return path / "intrinsics.txt" if whole else None


def _nerfpp(path: Path) -> Path | None:
    folder = path / "train" / "intrinsics"
    return folder if files_in(folder, {".txt"}) and (path / "train" / "pose").is_dir() else None


def _polycam(path: Path) -> Path | None:
    root = path / "keyframes" if (path / "keyframes").is_dir() else path
    return next((root / cameras for cameras, _ in polycam.FOLDERS if files_in(root / cameras, {".json"})), None)


def _record3d(path: Path) -> Path | None:
    files = [path / name for name in record3d.FILES if (path / name).is_file()]
    return next((file for file in files if _has_keys(file, "poses", "K")), None)


def _has_keys(file: Path, *keys: str) -> bool:
    try:
        content = read_json(file)
    except UserError:
        return False
    return isinstance(content, dict) and all(key in content for key in keys)


def _co3d(path: Path) -> Path | None:
    if (path / co3d.FILE).is_file():
        return path / co3d.FILE
    above = path.resolve().parent / co3d.FILE
    return above if (path / "images").is_dir() and above.is_file() else None


def _named(*names: str) -> Callable[[Path], Path | None]:
    def find(path: Path) -> Path | None:
        if path.is_file():
            return path if path.name in names else None
        return next((path / name for name in names if (path / name).is_file()), None)

    return find


def _colmap(path: Path) -> Path | None:
    """A model in this folder or in those that COLMAP and its users make below it, not in another dataset's."""
    found = model_folders(path) if path.is_dir() else []
    usual = ("sparse", "colmap", "distorted")
    own = (f for f in found if all(part in usual or part.isdigit() for part in f.relative_to(path).parts))
    return next(own, None)


def _mesh(path: Path) -> Path | None:
    return path if path.is_file() and path.suffix.lower() in MESHES else None


def _archive(path: Path) -> Path | None:
    if not (path.is_file() and path.name.lower().endswith(ARCHIVES)):
        return None
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if not any(name.endswith(("intrinsics.txt", *ARCHIVES)) for name in names):
            raise UserError(f"{path}: not an archive of the published scenes; unpack it and give the folder")
    return path


def _meshroom(path: Path) -> Path | None:
    file = meshroom.meshroom_file(path)
    if file is None or file.suffix not in meshroom.SUFFIXES:
        return None
    return file if _has_keys(file, "views", "intrinsics", "poses") else None


def _opensfm(path: Path) -> Path | None:
    file = opensfm.opensfm_file(path)
    return file if file and file.suffix == ".json" and '"shots"' in read_text(file) else None


def _middlebury(path: Path) -> Path | None:
    found = [file for file in files_in(path, {".txt"}) if file.name.lower().endswith("_par.txt")]
    return found[0] if found else None


def _photographs(path: Path) -> Path | None:
    if path.is_file():
        return path if path.suffix.lower() in VIDEOS else None
    for folder in (path, *sorted(f for f in path.iterdir() if f.is_dir() and not is_left_by_system(f))):
        if photographs := files_in(folder, IMAGE_SUFFIXES):
            return photographs[0]
    return None


SIGNS: dict[str, Callable[[Path], Path | None]] = {  # the surest first
    "transforms": _transforms,
    "polycam": _polycam,
    "record3d": _record3d,
    "co3d": _co3d,
    "neus": _named(*neus.FILES),
    "metashape": _with_words(metashape.SUFFIX, *metashape.WORDS),
    "realitycapture": _with_words(realitycapture.SUFFIX, *realitycapture.WORDS),
    "opensfm": _opensfm,
    "openmvg": _with_words(".json", '"sfm_data_version"'),
    "meshroom": _meshroom,
    "colmap": _colmap,
    "llff": _named(llff.FILE),
    "nerfpp": _nerfpp,
    "nsvf": _nsvf,
    "middlebury": _middlebury,
    "bundler": bundler.bundler_file,
    "mesh": _mesh,
    "official": _archive,
}
