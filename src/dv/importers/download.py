"""Downloading an archive, from Google Drive or any server, so that an interrupted download goes on."""

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
    """Remove those of ``folders`` that hold nothing."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def is_of_system(error: Exception) -> bool:
    """Whether an error is the system's; those of gzip, bz2 and requests are OSErrors too, but have no number."""
    return isinstance(error, OSError) and error.errno is not None


def download(url: str, aside: Path) -> Path:
    """The archive at ``url``, downloaded below ``aside`` or, if it was before, as it is there."""
    parts = urlsplit(url)
    on_drive = parts.hostname in ("drive.google.com", "docs.google.com")
    drive_id = re.search(
        r"(?:[?&]id=|/d/|/folders/|^)([\w-]{25,})(?![\w.-])", url if on_drive or not parts.scheme else ""
    )
    if not drive_id and (parts.scheme not in ("http", "https") or on_drive):
        raise UserError(f"source.url={url} must be an http(s) address, or that of a Google Drive file or folder")
    folder = aside / hashlib.sha256(url.encode()).hexdigest()[:12]  # partial files of two addresses do not mix
    folder.mkdir(parents=True, exist_ok=True)
    whole = [path for path in folder.iterdir() if path.suffix not in (".part", ".etag")]
    try:
        if whole:
            return whole[0]
        if drive_id:
            return _from_drive(url, drive_id[1], folder)
        name = re.sub(r"[^\w.-]+", "_", PurePosixPath(unquote(parts.path)).name).lstrip(".")
        return _from_server(url, folder / (name or "archive"))
    finally:
        remove_empty(folder, aside)


def _from_drive(url: str, drive_id: str, folder: Path) -> Path:
    """A file of Google Drive, or the one archive of scenes in a folder there; gdown resumes it."""
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
                there = ", ".join(f"{file.path}: https://drive.google.com/uc?id={file.id}" for file in archives)
                raise UserError(
                    f"{url}: not one archive of synthetic scenes there; {there or 'none at all'}; {ELSEWHERE}"
                )
            drive_id = chosen[0].id
        return Path(gdown.download(id=drive_id, output=f"{folder}{os.sep}", resume=True))
    except Exception as error:  # gdown's kinds differ between its versions
        if isinstance(error, UserError) or is_of_system(error):
            raise
        raise UserError(
            f"{url}: not downloaded ({' '.join(str(error).split())}); run the same command again to go on; a folder is "
            f"https://drive.google.com/drive/folders/ID; or {ELSEWHERE}"
        ) from error


def _from_server(url: str, target: Path) -> Path:
    """Download to ``target``, going on with ``<target>.part`` if the server can."""
    part, etag = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.etag")
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "dv", "Accept-Encoding": "identity"}
    headers |= {"Range": f"bytes={have}-"} if have else {}
    headers |= {"If-Range": etag.read_text()} if have and etag.exists() else {}  # a file that has changed comes anew
    try:
        with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as response:
            _receive(response, part, etag, have)
    except HTTPError as error:
        if error.code != 416 or not have:
            raise UserError(f"{url}: the server says {error.code} {error.reason}; {ELSEWHERE}") from error
        if error.headers["Content-Range"] != f"bytes */{have}":  # else it was whole already
            part.unlink()
            return _from_server(url, target)
    except (URLError, ConnectionError, TimeoutError, SSLError, HTTPException, ValueError) as error:
        raise UserError(f"{url}: {error}; run the same command again to go on, or {ELSEWHERE}") from error
    etag.unlink(missing_ok=True)
    return part.rename(target)


def _receive(response: Any, part: Path, etag: Path, have: int) -> None:
    """Write what comes to ``part``, after the ``have`` bytes there if it is the rest of them."""
    headers = response.headers
    resumed = bool(have) and (headers["Content-Range"] or "").startswith(f"bytes {have}-")
    if response.status == 206 and not resumed:
        part.unlink(missing_ok=True)
        raise ConnectionError("the server sent another part than asked for")
    if have and not resumed:
        print("the server cannot go on, or the file there has changed: starting over")
    have = have if resumed else 0
    total = have + int(headers["Content-Length"]) if headers["Content-Length"] else None
    strong = headers["ETag"] if not (headers["ETag"] or "W/").startswith("W/") else headers["Last-Modified"]
    etag.write_text(strong) if strong else etag.unlink(missing_ok=True)
    with (
        part.open("ab" if resumed else "wb") as file,
        tqdm(desc=part.stem, total=total, initial=have, unit="B", unit_scale=True) as progress,
    ):
        for block in iter(partial(response.read, 1 << 20), b""):
            progress.update(file.write(block))
            have += len(block)
    if total not in (None, have):
        raise ConnectionError(f"cut off after {have / 1e6:.1f} of {total / 1e6:.1f} MB")
