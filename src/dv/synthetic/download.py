"""Resumable download of an archive from Google Drive or any server."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from functools import partial
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from ssl import SSLError
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from dv.errors import UserError

ARCHIVE = re.compile(r"\.(zip|tgz|tar|tar\.gz)$", re.IGNORECASE)
TIMEOUT = 60  # seconds without a byte
ELSEWHERE = "give another source.url, or download it in a browser and give source.path=ARCHIVE"


def remove_empty(*folders: Path) -> None:
    """Remove the folders that are empty."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def is_system_error(error: Exception) -> bool:
    """Return whether the operating system raised an error; OSErrors of gzip, bz2 and requests have no number."""
    return isinstance(error, OSError) and error.errno is not None


def download(url: str, folder: Path) -> Path:
    """Download the archive at ``url``, unless an earlier run has done so.

    Args:
        url: http(s) address, or that of a file or folder on Google Drive, or the id of a file there.
        folder: below which downloads are kept.

    Returns:
        Path of the archive.

    Raises:
        UserError: if the download fails, with what to do next.
    """
    parts = urlsplit(url)
    on_drive = parts.hostname in ("drive.google.com", "docs.google.com")
    drive_id = re.search(
        r"(?:[?&]id=|/d/|/folders/|^)([\w-]{25,})(?![\w.-])", url if on_drive or not parts.scheme else ""
    )
    if not drive_id and (parts.scheme not in ("http", "https") or on_drive):
        raise UserError(f"source.url={url} must be an http(s) address, or that of a Google Drive file or folder")
    url_folder = folder / hashlib.sha256(url.encode()).hexdigest()[:12]  # keeps partial files of two addresses apart
    url_folder.mkdir(parents=True, exist_ok=True)
    complete = [path for path in url_folder.iterdir() if path.suffix not in (".part", ".etag")]
    try:
        if complete:
            return complete[0]
        if drive_id:
            return _from_drive(url, drive_id[1], url_folder)
        name = re.sub(r"[^\w.-]+", "_", PurePosixPath(unquote(parts.path)).name).lstrip(".")
        return _from_server(url, url_folder / (name or "archive"))
    finally:
        remove_empty(url_folder, folder)


def _from_drive(url: str, drive_id: str, folder: Path) -> Path:
    """Download a file from Google Drive, or the only archive of scenes in a folder there; gdown resumes it."""
    try:
        import gdown
    except ImportError as error:
        raise UserError("downloads from Google Drive need gdown: pip install 'dv[official]'") from error
    try:
        if "/folders/" in url:
            files = gdown.download_folder(id=drive_id, output=str(folder), skip_download=True, quiet=True)
            archives = [file for file in files if ARCHIVE.search(file.path)]
            chosen = archives if len(archives) == 1 else [file for file in archives if "synthetic" in file.path]
            if len(chosen) != 1:
                listed = ", ".join(f"{file.path}: https://drive.google.com/uc?id={file.id}" for file in archives)
                raise UserError(
                    f"{url}: must hold exactly one archive of synthetic scenes, but has {listed or 'none'}; {ELSEWHERE}"
                )
            drive_id = chosen[0].id
        return Path(gdown.download(id=drive_id, output=f"{folder}{os.sep}", resume=True))
    except Exception as error:  # the types that gdown raises differ between its versions
        if isinstance(error, UserError) or is_system_error(error):
            raise
        raise UserError(
            f"{url}: not downloaded ({' '.join(str(error).split())}); run the same command again to continue; the "
            f"address of a folder is https://drive.google.com/drive/folders/ID; or {ELSEWHERE}"
        ) from error


def _from_server(url: str, target: Path) -> Path:
    """Download to ``target``, continuing ``<target>.part`` if the server supports it."""
    part, etag = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.etag")
    received = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "dv", "Accept-Encoding": "identity"}
    headers |= {"Range": f"bytes={received}-"} if received else {}
    headers |= {"If-Range": etag.read_text()} if received and etag.exists() else {}  # a changed file is sent completely
    try:
        with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as response:
            _receive(response, part, etag, received)
    except HTTPError as error:
        if error.code != 416 or not received:
            raise UserError(f"{url}: the server responds {error.code} {error.reason}; {ELSEWHERE}") from error
        if error.headers["Content-Range"] != f"bytes */{received}":  # else the file was complete already
            part.unlink()
            return _from_server(url, target)
    except (URLError, ConnectionError, TimeoutError, SSLError, HTTPException, ValueError) as error:
        raise UserError(f"{url}: {error}; run the same command again to continue, or {ELSEWHERE}") from error
    etag.unlink(missing_ok=True)
    return part.rename(target)


def _receive(response: Any, part: Path, etag: Path, received: int) -> None:
    """Append the response to ``part`` if it continues the ``received`` bytes there, else replace them."""
    headers = response.headers
    resumed = bool(received) and (headers["Content-Range"] or "").startswith(f"bytes {received}-")
    if response.status == 206 and not resumed:
        part.unlink(missing_ok=True)
        raise ConnectionError("the server sent another range than requested")
    if received and not resumed:
        print("the server cannot resume the download, or its file has changed: starting over")
    received = received if resumed else 0
    total = received + int(headers["Content-Length"]) if headers["Content-Length"] else None
    strong = headers["ETag"] if not (headers["ETag"] or "W/").startswith("W/") else headers["Last-Modified"]
    etag.write_text(strong) if strong else etag.unlink(missing_ok=True)
    with (
        part.open("ab" if resumed else "wb") as file,
        tqdm(desc=part.stem, total=total, initial=received, unit="B", unit_scale=True) as progress,
    ):
        for block in iter(partial(response.read, 1 << 20), b""):
            progress.update(file.write(block))
            received += len(block)
    if total not in (None, received):
        raise ConnectionError(f"cut off after {received / 1e6:.1f} of {total / 1e6:.1f} MB")
