"""The published DeepVoxels archive, from a file or by download, installed as ``<root>/{train,validation,test}/<name>``.

Nothing of an archive is trusted: members are written one by one, as plain files, into a folder that stays aside until
every object in it has been read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, NamedTuple

from dv import __version__
from dv.errors import UserError
from dv.importers.download import ARCHIVE, download, is_of_system, remove_empty

SPLITS = {"test": "test", "val": "validation", "validation": "validation", "train": "train"}
SIDE = 16  # px, at which all views are read to be checked
ORDER = tuple(SPLITS.values())  # in which the finished folders appear
NESTED = 2  # archives in archives


@dataclass(frozen=True)
class OfficialSettings:
    """Where the archive is and what is accepted; the fields are the ``source`` configuration."""

    path: str | None = None
    url: str | None = None
    sha256: str | None = None
    max_gb: float = 50
    pixel_center: float = 0

    def __post_init__(self) -> None:
        if not self.path and not self.url:
            raise UserError("source.path is not set; give source.path=ARCHIVE or source.url=URL")
        if self.sha256 and not re.fullmatch("[0-9a-fA-F]{64}", str(self.sha256)):
            raise UserError(f"source.sha256={self.sha256} must be 64 hexadecimal digits")
        if not isinstance(self.max_gb, int | float) or not self.max_gb > 0:
            raise UserError(f"source.max_gb={self.max_gb} must be a positive number")
        if self.pixel_center not in (0, 0.5):
            raise UserError(f"source.pixel_center={self.pixel_center} must be 0 (the reference's convention) or 0.5")


def install_official(output_dir: Path, settings: OfficialSettings) -> list[str]:
    """Install every object of the archive as ``output_dir/{train,validation,test}/<name>``; returns their names.

    Objects of the same archive that are there already are left alone. Raises :class:`UserError` for what cannot be
    downloaded, unpacked or read; nothing of it is installed then.
    """
    aside = output_dir / ".official.partial"  # also holds the download, until all is installed
    given = Path(settings.path).expanduser() if settings.path else None
    wanted = {"source": "official", "pixel_center": settings.pixel_center}
    wanted |= {"sha256": settings.sha256.lower()} if settings.sha256 else {}
    wanted |= {"sha256": _checksum(given, settings)} if given else {"archive": settings.url}
    folders = _installed(output_dir, wanted)
    if folders:
        print(f"{', '.join(folders)} in {output_dir} are already installed from this archive: nothing to do")
    else:
        archive = given or download(str(settings.url), aside)
        wanted["sha256"] = wanted["sha256"] if given else _checksum(archive, settings)
        about = wanted | {"archive": given.name if given else settings.url, "versions": {"dv": __version__}}
        try:
            folders = _install(archive, aside / "unpacked", output_dir, about, settings.max_gb)
        except UserError as error:
            again = "" if given else f" (downloaded from {settings.url}; delete it to do so again)"
            raise UserError(f"{archive}{again}: {error}") from error
        finally:
            shutil.rmtree(aside / "unpacked", ignore_errors=True)
            remove_empty(aside)
    shutil.rmtree(aside, ignore_errors=True)
    return sorted(PurePosixPath(folder).name for folder in folders if folder.startswith("train/"))


def _checksum(archive: Path, settings: OfficialSettings) -> str:
    """The SHA-256 of ``archive``, which must be the one asked for."""
    if not archive.is_file():
        raise UserError(f"source.path={archive}: no such file; give the archive, or source.path=null to download it")
    with archive.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if settings.sha256 and sha256 != settings.sha256.lower():
        mend = "give the right file" if settings.path else "delete the file and run again"
        raise UserError(
            f"{archive}: its SHA-256 is {sha256}, not source.sha256={settings.sha256}; mend that, or {mend}"
        )
    return sha256


def _record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / "dataset.json").read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _installed(output_dir: Path, wanted: dict[str, Any]) -> list[str]:
    """``<split>/<name>`` of all that an archive holds, if all of it is there with the ``wanted`` record; else none."""
    for path in sorted(output_dir.glob("*/*/dataset.json")):
        there = _record(path.parent)
        folders = [str(folder) for folder in there.get("folders", [])]
        same = {"sha256": there.get("sha256"), **wanted}
        if folders and all(same.items() <= _record(output_dir / folder).items() for folder in folders):
            return folders
    return []


def _install(archive: Path, unpacked: Path, output_dir: Path, about: dict[str, Any], max_gb: float) -> list[str]:
    """Unpack, read and install all objects; returns their ``<split>/<name>``."""
    shutil.rmtree(unpacked, ignore_errors=True)  # of a run that was killed
    unpacked.mkdir(parents=True)
    try:
        _unpack_nested(archive, unpacked, max_gb)
        found = _find_objects(unpacked)
        same = {key: about[key] for key in ("source", "sha256", "pixel_center")}
        there = [folder for folder in found if (output_dir / folder).exists()]
        other = [str(output_dir / f) for f in there if not same.items() <= _record(output_dir / f).items()]
        if other:
            raise UserError(
                f"would replace {', '.join(other)}, which came from elsewhere or with other settings; "
                "delete that or choose another output_dir"
            )
        _check_objects(found, about["pixel_center"])
    except UserError as error:
        raise UserError(str(error).replace(f"{unpacked}{os.sep}", "")) from error
    for folder, path in found.items():
        if folder not in there:
            record = about | {"object": path.name, "folders": list(found)}
            (path / "dataset.json").write_text(json.dumps(record, indent=2) + "\n")
            (output_dir / folder).parent.mkdir(parents=True, exist_ok=True)
            path.rename(output_dir / folder)
    return list(found)


def _find_objects(unpacked: Path) -> dict[str, Path]:
    """The folders that hold an object, by ``<split>/<name>``, training views last. Raises :class:`UserError`."""
    found: dict[str, Path] = {}
    left_out = []
    parts = (part for name in ("rgb", "pose", "intrinsics.txt") for part in unpacked.rglob(name))
    for path in sorted({part.parent for part in parts} - {unpacked}):
        split = SPLITS.get(path.parent.name.lower())
        if split is None:
            left_out.append(str(path.relative_to(unpacked)))
        elif (folder := f"{split}/{path.name}") in found:
            raise UserError(f"{found[folder]} and {path} would both be {folder}; pack one of them")
        else:
            found[folder] = path
    hint = f"in no folder train, validation or test: {', '.join(left_out)}" if left_out else ""
    if not found:
        raise UserError(
            f"no {{train,validation,test}}/NAME with rgb/, pose/ and intrinsics.txt in it{hint and '; '}{hint}"
        )
    if left_out:
        print(f"left out, as {hint}")
    return dict(sorted(found.items(), key=lambda item: (ORDER.index(item[0].split("/")[0]), item[0])))


def _check_objects(found: dict[str, Path], pixel_center: float) -> None:
    """Read all views, as training will, list every fault, and say what looks suspicious."""
    from dv.data.folder import Views, read_calibration, read_views
    from dv.prepare.check import check_cameras

    problems = []
    objects: dict[str, dict[str, Views]] = {}
    for folder, path in found.items():
        try:
            views = read_views(path, SIDE, "white", pixel_center)
            split, name = folder.split("/")
            objects.setdefault(name, {})[split] = views
            print(f"{folder}: {len(views)} views")
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("; ".join(problems))
    for name, splits in objects.items():
        if "train" in splits:
            calibration = read_calibration(found[f"train/{name}"] / "intrinsics.txt", pixel_center)
            for finding in check_cameras(splits, calibration):
                print(f"{finding.severity}: {name}: {finding.message}")


class Member(NamedTuple):
    """One member of an archive; ``plain`` is a file or folder, not a link or device."""

    name: str
    plain: bool
    is_folder: bool
    size: int
    open: Callable[[], IO[bytes] | None]


def _members(archive: Path) -> Iterator[Member]:
    # tar first: a tar that ends with a zip passes for a zip as well
    if tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tar:
            for entry in tar:
                plain = entry.isfile() or entry.isdir()
                yield Member(entry.name, plain, entry.isdir(), entry.size, partial(tar.extractfile, entry))
            while tar.fileobj and tar.fileobj.read(1 << 20):
                pass  # gzip checks its sum at the end
    elif zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                plain = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)
                yield Member(info.filename, plain, info.is_dir(), info.file_size, partial(packed.open, info))
    else:
        with archive.open("rb") as file:
            cut = file.read(4).startswith((b"PK\3\4", b"\x1f\x8b\x08"))
        raise UserError("truncated; get it again" if cut else "not a zip, tar or tar.gz archive")


def _unpack(archive: Path, into: Path, left: float) -> float:
    """Write the members of an archive below ``into``; returns how many of ``left`` bytes are then left."""
    try:
        for member in _members(archive):
            left -= member.size  # no more than this is read from it
            _write(member, into, left)
    except Exception as error:  # each of the formats raises kinds of its own
        if isinstance(error, UserError) or is_of_system(error):
            raise
        reason = str(error) or type(error).__name__
        raise UserError(f"truncated, damaged or locked ({reason}); get it again") from error
    return left


def _unpack_nested(archive: Path, into: Path, max_gb: float) -> None:
    """Unpack ``archive`` and the archives in it, each into a folder of its name."""
    left = _unpack(archive, into, max_gb * 1e9)
    for depth in range(NESTED + 1):
        for path in [p for p in sorted(into.rglob("*")) if ARCHIVE.search(p.name) and p.is_file()]:
            if depth == NESTED:
                raise UserError(f"{path}: archives in archives, deeper than {NESTED}; unpack the outer ones")
            try:
                left = _unpack(path, path.with_name(ARCHIVE.sub("", path.name)), left)
            except UserError as error:
                raise UserError(f"{path}: {error}") from error
            path.unlink()


def _write(member: Member, into: Path, left: float) -> None:
    """Write one member as a new file or folder below ``into``, or refuse it."""
    path = PureWindowsPath(member.name)  # takes / and \ for separators and knows drives: safe on every system
    target = into.joinpath(*path.parts)
    if not member.plain:
        raise UserError(f"member {member.name!r} is a link or a device, which no scene needs; get it elsewhere")
    if path.anchor or ".." in path.parts:
        raise UserError(f"member {member.name!r} would be written outside of the folder; get it elsewhere")
    if left < 0:
        raise UserError(f"member {member.name!r} goes beyond source.max_gb; raise that if the archive is right")
    if "__MACOSX" in path.parts or path.name.startswith("._"):
        return
    try:
        (target if member.is_folder else target.parent).mkdir(parents=True, exist_ok=True)
        if not member.is_folder:
            with member.open() or open(os.devnull, "rb") as source, target.open("xb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"member {member.name!r} is there twice; get it elsewhere") from error
