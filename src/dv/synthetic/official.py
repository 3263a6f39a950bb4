"""Installer of the published DeepVoxels archive, from a file or by download.

Objects are installed as ``<root>/{train,validation,test}/<name>``. Archives are not trusted: only plain files and
folders are extracted, into a temporary folder, where every object is read before it is installed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from dv import __version__
from dv.config.prepare import OfficialSource
from dv.data.record import RECORD_FILE, read_record, write_record
from dv.errors import UserError
from dv.synthetic.download import ARCHIVE, download, is_system_error, remove_empty

SPLITS = {"test": "test", "val": "validation", "validation": "validation", "train": "train"}
ORDER = tuple(SPLITS.values())  # in which the finished folders appear
CHECK_SIDE = 16  # px, at which all views are read
MAX_NESTING = 2  # archives in archives


def install_official(output_dir: Path, settings: OfficialSource) -> list[str]:
    """Install every object of the archive as ``output_dir/{train,validation,test}/<name>``.

    Objects of the same archive that are installed already are kept.

    Args:
        output_dir: root of the objects.
        settings: where the archive is.

    Returns:
        Names of the objects.

    Raises:
        UserError: if the archive cannot be downloaded, extracted or read; then nothing of it is installed.
    """
    partial = output_dir / ".official.partial"  # keeps the download, too, until everything is installed
    given = Path(settings.path).expanduser() if settings.path else None
    wanted = {"source": "official", "pixel_center": settings.pixel_center}
    wanted |= {"sha256": settings.sha256.lower()} if settings.sha256 else {}
    wanted |= {"sha256": _checksum(given, settings)} if given else {"archive": settings.url}
    folders = _installed(output_dir, wanted)
    if folders:
        print(f"{', '.join(folders)} in {output_dir} are already installed from this archive: nothing to do")
    else:
        archive = given or download(str(settings.url), partial)
        wanted["sha256"] = wanted["sha256"] if given else _checksum(archive, settings)
        record = wanted | {"archive": given.name if given else settings.url, "versions": {"dv": __version__}}
        try:
            folders = _install(archive, partial / "unpacked", output_dir, record, settings.max_gb)
        except UserError as error:
            source = "" if given else f" (downloaded from {settings.url}; delete it to download it again)"
            raise UserError(f"{archive}{source}: {error}") from error
        finally:
            shutil.rmtree(partial / "unpacked", ignore_errors=True)
            remove_empty(partial)
    shutil.rmtree(partial, ignore_errors=True)
    return sorted(PurePosixPath(folder).name for folder in folders if folder.startswith("train/"))


def _checksum(archive: Path, settings: OfficialSource) -> str:
    """Return the SHA-256 of ``archive``; raise :class:`UserError` if it is not the expected one."""
    if not archive.is_file():
        raise UserError(f"source.path={archive}: no such file; give the archive, or source.path=null to download it")
    with archive.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if settings.sha256 and sha256 != settings.sha256.lower():
        remedy = "give the right file" if settings.path else "delete the file and run again"
        raise UserError(
            f"{archive}: its SHA-256 is {sha256}, not source.sha256={settings.sha256}; correct that, or {remedy}"
        )
    return sha256


def _has_record(folder: Path, expected: dict[str, Any]) -> bool:
    """Return whether the record of a folder contains everything in ``expected``."""
    return expected.items() <= read_record(folder, strict=False).items()


def _installed(output_dir: Path, wanted: dict[str, Any]) -> list[str]:
    """Return ``<split>/<name>`` of all folders of an archive if all exist with the ``wanted`` record, else nothing."""
    for path in sorted(output_dir.glob(f"*/*/{RECORD_FILE}")):
        record = read_record(path.parent, strict=False)
        folders = [str(folder) for folder in record.get("folders", [])]
        expected = {"sha256": record.get("sha256"), **wanted}
        if folders and all(_has_record(output_dir / folder, expected) for folder in folders):
            return folders
    return []


def _install(archive: Path, unpacked: Path, output_dir: Path, record: dict[str, Any], max_gb: float) -> list[str]:
    """Unpack, read and install all objects; return their ``<split>/<name>``."""
    shutil.rmtree(unpacked, ignore_errors=True)  # left by a killed run
    unpacked.mkdir(parents=True)
    try:
        _unpack_nested(archive, unpacked, max_gb)
        found = _find_objects(unpacked)
        expected = {key: record[key] for key in ("source", "sha256", "pixel_center")}
        existing = [folder for folder in found if (output_dir / folder).exists()]
        others = [str(output_dir / folder) for folder in existing if not _has_record(output_dir / folder, expected)]
        if others:
            raise UserError(
                f"would replace {', '.join(others)}, which came from elsewhere or with other settings; "
                "delete that or choose another output_dir"
            )
        _check_objects(found, record["pixel_center"])
    except UserError as error:
        raise UserError(str(error).replace(f"{unpacked}{os.sep}", "")) from error
    for folder, path in found.items():
        if folder not in existing:
            write_record(path, record | {"object": path.name, "folders": list(found)})
            (output_dir / folder).parent.mkdir(parents=True, exist_ok=True)
            path.rename(output_dir / folder)
    return list(found)


def _find_objects(unpacked: Path) -> dict[str, Path]:
    """Return the folders that hold an object by ``<split>/<name>``, training views last."""
    found: dict[str, Path] = {}
    left_out = []
    parts = (part for name in ("rgb", "pose", "intrinsics.txt") for part in unpacked.rglob(name))
    for path in sorted({part.parent for part in parts} - {unpacked}):
        split = SPLITS.get(path.parent.name.lower())
        if split is None:
            left_out.append(str(path.relative_to(unpacked)))
        elif (folder := f"{split}/{path.name}") in found:
            raise UserError(f"{found[folder]} and {path} would both be {folder}; pack only one of them")
        else:
            found[folder] = path
    hint = f"not in a folder train, validation or test: {', '.join(left_out)}" if left_out else ""
    if not found:
        raise UserError(
            f"no {{train,validation,test}}/NAME with rgb/, pose/ and intrinsics.txt in it{hint and '; '}{hint}"
        )
    if left_out:
        print(f"left out, since {hint}")
    return dict(sorted(found.items(), key=lambda item: (ORDER.index(item[0].split("/")[0]), item[0])))


def _check_objects(found: dict[str, Path], pixel_center: float) -> None:
    """Read all views as training does, and print what is suspicious; raise :class:`UserError` with every fault."""
    from dv.data.calibration import read_calibration
    from dv.data.folder import Views, read_views
    from dv.data.reading import ImageReading
    from dv.prepare.camera_checks import check_cameras

    problems = []
    objects: dict[str, dict[str, Views]] = {}
    for folder, path in found.items():
        try:
            views = read_views(path, ImageReading(CHECK_SIDE), "white", pixel_center)
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
            for message in check_cameras(splits, calibration):
                print(f"warning: {name}: {message}")


def _unpack_nested(archive: Path, into: Path, max_gb: float) -> None:
    """Unpack ``archive`` and the archives in it, each into a folder of its name."""
    budget = _unpack(archive, into, max_gb * 1e9)
    for depth in range(MAX_NESTING + 1):
        for path in [p for p in sorted(into.rglob("*")) if ARCHIVE.search(p.name) and p.is_file()]:
            if depth == MAX_NESTING:
                raise UserError(f"{path}: archives in archives, deeper than {MAX_NESTING}; unpack the outer ones")
            try:
                budget = _unpack(path, path.with_name(ARCHIVE.sub("", path.name)), budget)
            except UserError as error:
                raise UserError(f"{path}: {error}") from error
            path.unlink()


def _unpack(archive: Path, into: Path, budget: float) -> float:
    """Extract an archive below ``into``; return how many of ``budget`` bytes are left."""
    try:
        if tarfile.is_tarfile(archive):  # first, since a tar file that ends with a zip file is also taken for one
            return _unpack_tar(archive, into, budget)
        if zipfile.is_zipfile(archive):
            return _unpack_zip(archive, into, budget)
    except Exception as error:  # the formats raise different types
        if isinstance(error, UserError) or is_system_error(error):
            raise
        reason = str(error) or type(error).__name__
        raise UserError(f"truncated, damaged or locked ({reason}); get it again") from error
    with archive.open("rb") as file:
        truncated = file.read(4).startswith((b"PK\3\4", b"\x1f\x8b\x08"))
    raise UserError("truncated; get it again" if truncated else "not a zip, tar or tar.gz archive")


def _unpack_tar(archive: Path, into: Path, budget: float) -> float:
    with tarfile.open(archive) as tar:
        for member in tar:
            budget -= member.size
            is_plain = member.isfile() or member.isdir()
            if name := _checked_name(into, member.name, is_plain, member.isdir(), budget):
                tar.extract(member.replace(name=name, deep=False), into, filter="data")
        while tar.fileobj and tar.fileobj.read(1 << 20):
            pass  # gzip verifies its checksum at the end
    return budget


def _unpack_zip(archive: Path, into: Path, budget: float) -> float:
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            budget -= member.file_size  # zipfile reads no more than this
            is_plain = stat.S_IFMT(member.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)
            if name := _checked_name(into, member.filename, is_plain, member.is_dir(), budget):
                member.filename = f"{name}/" if member.is_dir() else name
                packed.extract(member, into)
    return budget


def _checked_name(into: Path, member: str, is_plain: bool, is_folder: bool, budget: float) -> str | None:
    """Return the path below ``into`` where a member may be written, None to skip it; raise :class:`UserError`."""
    path = PureWindowsPath(member)  # accepts both separators and recognizes drives: safe on every system
    if not is_plain:
        raise UserError(f"member {member!r} is a link or a device, which no scene needs; get the archive elsewhere")
    if path.anchor or ".." in path.parts:
        raise UserError(f"member {member!r} would be written outside of the folder; get the archive elsewhere")
    if budget < 0:
        raise UserError(f"member {member!r} exceeds source.max_gb; increase that if the archive is right")
    if "__MACOSX" in path.parts or path.name.startswith("._"):
        return None
    target = into.joinpath(*path.parts)
    if (target.exists() and not is_folder) or any(folder.is_file() for folder in (target, *target.parents)):
        raise UserError(f"member {member!r} occurs twice; get the archive elsewhere")
    return path.as_posix()
