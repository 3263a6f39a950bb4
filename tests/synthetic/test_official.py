"""Installing the published archive from a file, over HTTP or from Google Drive; damaged and malicious archives."""

import hashlib
import http.server
import json
import re
import shutil
import stat
import tarfile
import threading
import zipfile
from collections import namedtuple
from pathlib import Path

import gdown
import pytest

from conftest import write_object
from dv.config.prepare import OfficialSource
from dv.errors import UserError
from dv.synthetic import download, official
from dv.synthetic.official import install_official

SPLITS = ("train", "validation", "test")
DRIVE = "https://drive.google.com/open?id=1lUvJWB6oFtT8EQ_NzBrXnmi25BufxRfl"
FOLDER = "https://drive.google.com/drive/folders/1ScsRlnzy9Bd_n-xw83SP-0t548v63mPH"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """The published layout with two tiny objects."""
    root = tmp_path_factory.mktemp("scenes")
    write_object(root, side=16, train=2, name="vase")
    return write_object(root, side=16, train=2, name="shoe")


def pack(path: Path, root: Path, top: str = "") -> Path:
    """Pack ``root`` into a zip or tar archive, with everything below the folder ``top``."""
    files = sorted(file for file in root.rglob("*") if file.is_file())
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as packed:
            for file in files:
                packed.write(file, top + str(file.relative_to(root)))
    else:
        with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
            for file in files:
                tar.add(file, top + str(file.relative_to(root)))
    return path


@pytest.fixture(scope="module")
def archive(scenes, tmp_path_factory):
    return pack(tmp_path_factory.mktemp("archive") / "synthetic_scenes.zip", scenes)


def install(root: Path, **settings) -> list[str]:
    defaults = {"path": None, "url": None, "sha256": None, "max_gb": 50.0, "pixel_center": 0.0}
    return install_official(root, OfficialSource(name="official", **defaults | settings))


def complete(root: Path) -> bool:
    """Return whether both objects are installed, each with its record, and nothing else."""
    folders = [root / split / name for split in SPLITS for name in ("vase", "shoe")]
    assert {p.name for p in root.iterdir()} == set(SPLITS)
    assert all(len(list((f / "rgb").iterdir())) == len(list((f / "pose").iterdir())) > 1 for f in folders)
    return all(json.loads((f / "dataset.json").read_text())["object"] == f.name for f in folders)


def refused(root: Path, match: str, **settings) -> str:
    """Assert that installing fails and leaves nothing but downloads, and return the one-line message."""
    with pytest.raises(UserError, match=match) as error:
        install(root, **settings)
    assert not any((root / split).exists() for split in SPLITS)
    assert not (root / ".official.partial" / "unpacked").exists()
    assert "url" in settings or not (root / ".official.partial").exists()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "top"), [("a.zip", ""), ("a.zip", "synthetic_scenes/"), ("a.tar.gz", "x/y/"), ("a.tar", "")]
)
def test_installs_an_archive(scenes, tmp_path, capsys, name, top):
    assert install(tmp_path / "to", path=str(pack(tmp_path / name, scenes, top))) == ["shoe", "vase"]
    assert complete(tmp_path / "to")
    out = capsys.readouterr().out
    assert "train/vase: " in out
    assert "warning: vase: 2 training views are few" in out
    record = json.loads((tmp_path / "to" / "train" / "vase" / "dataset.json").read_text())
    assert (record["source"], record["archive"], record["pixel_center"]) == ("official", name, 0)
    assert len(record["sha256"]) == 64
    assert record["versions"]["dv"]


@pytest.mark.parametrize("outer", ["all.zip", "all.tar"])
def test_installs_archives_in_an_archive(scenes, tmp_path, outer):
    (tmp_path / "in" / "val").mkdir(parents=True)
    pack(tmp_path / "in" / "train.zip", scenes / "train")  # objects at the top level
    pack(tmp_path / "in" / "rest.tar.gz", scenes / "test", "test/")
    for name in ("vase", "shoe"):  # one archive per object
        pack(tmp_path / "in" / "val" / f"{name}.zip", scenes / "validation" / name)
    install(tmp_path / "to", path=str(pack(tmp_path / outer, tmp_path / "in")))
    assert complete(tmp_path / "to")


def test_command(command, archive, tmp_path):
    result = command("prepare", "source=official", f"source.path={archive}", f"output_dir={tmp_path / 'to'}")
    assert result.code == 0, result.err
    assert f"paper's model: python train.py object=custom object.root={tmp_path}/to object.name=shoe\n" in result.out
    assert complete(tmp_path / "to")
    again = command("prepare", "source=official", f"source.path={archive}", f"output_dir={tmp_path / 'to'}")
    assert "nothing to do" in again.out
    assert "with the paper's model: python train.py object=vase" in again.out
    for key, value in (("path", "absent.zip"), ("sha256", "abc"), ("max_gb", 0), ("pixel_center", 1)):
        bad = command("prepare", "source=official", f"source.{key}={value}", f"output_dir={tmp_path / 'to'}")
        assert (bad.code, bad.err.count("\n")) == (1, 1)
        assert f"source.{key}={value}" in bad.err


def test_existing_objects_are_kept_and_missing_ones_added(archive, tmp_path, capsys):
    install(tmp_path, path=str(archive))
    shutil.rmtree(tmp_path / "train" / "vase")
    kept = (tmp_path / "test" / "vase").stat().st_ino
    install(tmp_path, path=str(archive))
    assert complete(tmp_path)
    assert (tmp_path / "test" / "vase").stat().st_ino == kept
    with pytest.raises(UserError, match="would replace .*test/shoe.*other settings"):
        install(tmp_path, path=str(archive), pixel_center=0.5)
    assert complete(tmp_path)


def test_an_existing_other_object_is_kept(archive, tmp_path):
    (tmp_path / "train" / "vase").mkdir(parents=True)
    with pytest.raises(UserError, match="would replace .*train/vase.*choose another output_dir"):
        install(tmp_path, path=str(archive))
    assert [p.name for p in tmp_path.iterdir()] == ["train"]
    assert not any((tmp_path / "train" / "vase").iterdir())


@pytest.mark.parametrize(
    ("stage", "kind"),
    [("_unpack_nested", KeyboardInterrupt), ("_find_objects", OSError), ("_check_objects", KeyboardInterrupt)],
)
def test_interrupted_run_leaves_nothing_and_the_next_completes(archive, tmp_path, monkeypatch, stage, kind):
    def interrupted(*arguments):
        real(*arguments)
        raise kind(28, "No space left on device")

    real = getattr(official, stage)
    monkeypatch.setattr(official, stage, interrupted)
    with pytest.raises(kind):
        install(tmp_path, path=str(archive))
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    (tmp_path / ".official.partial" / "unpacked" / "train" / "vase").mkdir(parents=True)  # left by a killed run
    install(tmp_path, path=str(archive))
    assert complete(tmp_path)


def test_run_killed_while_installing_continues(archive, tmp_path, monkeypatch):
    done = []
    rename = Path.rename

    def third_fails(self, target):
        done.append(target)
        if len(done) == 3:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", third_fails)
    with pytest.raises(KeyboardInterrupt):
        install(tmp_path, path=str(archive))
    monkeypatch.undo()
    assert not (tmp_path / "train").exists()  # train appears last, so no object can be used for training yet
    install(tmp_path, path=str(archive))
    assert complete(tmp_path)


def test_bad_files(archive, scenes, tmp_path):
    to, bad = tmp_path / "to", tmp_path / "bad.zip"
    refused(to, "source.path=.*bad.zip: no such file; give", path=str(bad))
    bad.write_text("<html>no</html>")
    refused(to, "bad.zip: not a zip, tar or tar.gz archive", path=str(bad))
    bad.write_bytes(archive.read_bytes()[:-200])
    refused(to, "bad.zip: truncated; get it again", path=str(bad))
    damaged = bytearray(archive.read_bytes())
    damaged[2000] ^= 255
    bad.write_bytes(damaged)
    refused(to, "bad.zip: truncated, damaged or locked .*CRC", path=str(bad))
    tar = pack(tmp_path / "bad.tar.gz", scenes)
    tar.write_bytes(tar.read_bytes()[:-9])
    refused(to, "bad.tar.gz: truncated, damaged", path=str(tar))
    pack(tmp_path / "bad.tar", scenes)
    with (tmp_path / "bad.tar").open("r+b") as file:
        file.truncate(5000)
    refused(to, "bad.tar: truncated, damaged", path=str(tmp_path / "bad.tar"))
    refused(to, "its SHA-256 is [0-9a-f]{64}, not source.sha256=00", path=str(archive), sha256="0" * 64)


def test_archives_without_complete_objects(scenes, tmp_path):
    to, bad = tmp_path / "to", tmp_path / "bad.zip"
    with zipfile.ZipFile(bad, "w") as packed:
        packed.writestr("readme.txt", "hello")
    refused(to, "no {train,validation,test}/NAME with rgb/", path=str(bad))
    pack(bad, scenes / "train" / "vase", "captures/globe/")
    refused(to, "not in a folder train, validation or test: captures/globe", path=str(bad))
    copy = shutil.copytree(scenes, tmp_path / "copy")
    for image in (copy / "train" / "vase" / "rgb").iterdir():
        image.unlink()
    (copy / "test" / "shoe" / "pose" / "000001.txt").write_text("1 2 3")
    line = refused(to, "train/vase/rgb: contains no images", path=str(pack(bad, copy)))
    assert "test/shoe/pose/000001.txt: a pose has 16 numbers" in line
    assert ".official.partial" not in line
    shutil.copytree(scenes / "test" / "vase", tmp_path / "twice" / "a" / "test" / "vase")
    shutil.copytree(scenes / "test" / "vase", tmp_path / "twice" / "b" / "test" / "vase")
    refused(to, "a/test/vase and b/test/vase would both be test/vase", path=str(pack(bad, tmp_path / "twice")))
    shutil.rmtree(tmp_path / "twice")
    (tmp_path / "twice").mkdir()
    for _ in range(4):
        shutil.move(bad, tmp_path / "twice" / "in.zip")
        pack(bad, tmp_path / "twice")
    refused(to, "in/in/in.zip: archives in archives", path=str(bad))


HOSTILE = [
    "../out",
    "a/../../out",
    "ABSOLUTE",
    "..\\out",
    "a\\..\\..\\out",
    "C:\\out",
    "C:out",
    "\\\\host\\share\\out",
]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_members_outside_are_refused(archive, tmp_path, name, suffix):
    tmp_path = tmp_path / "here"
    tmp_path.mkdir()
    name = name.replace("ABSOLUTE", str(tmp_path.parent / "out"))
    bad = tmp_path / f"bad.{suffix}"
    if suffix == "zip":
        shutil.copy(archive, bad)
        with zipfile.ZipFile(bad, "a") as packed:
            packed.writestr(name, "x")
    else:
        with tarfile.open(bad, "w") as tar:
            tar.addfile(tarfile.TarInfo(name))
    refused(tmp_path / "to", f"member {re.escape(repr(name))} would be written outside", path=str(bad))
    assert {p.name for p in tmp_path.iterdir()} <= {"to", bad.name}
    assert not (tmp_path.parent / "out").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        info = tarfile.TarInfo("train/vase/rgb")
        info.type, info.linkname = kind, "/etc"
        tar.addfile(info)
        tar.addfile(tarfile.TarInfo("train/vase/rgb/passwd"))
    refused(tmp_path / "to", "member 'train/vase/rgb' is a link or a device", path=str(tmp_path / "bad.tar"))


def test_hostile_zips_are_refused(archive, scenes, tmp_path):
    bad = tmp_path / "bad.zip"
    with zipfile.ZipFile(bad, "w") as packed:
        link = zipfile.ZipInfo("train")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(link, "/etc")
    refused(tmp_path / "to", "member 'train' is a link", path=str(bad))
    with zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("bomb.png", bytes(3_000_000))
    refused(tmp_path / "to", "'bomb.png' exceeds source.max_gb", path=str(bad), max_gb=0.002)
    (tmp_path / "in").mkdir()
    shutil.move(bad, tmp_path / "in" / "bomb.zip")
    refused(tmp_path / "to", "bomb.zip: member 'bomb.png'", path=str(pack(bad, tmp_path / "in")), max_gb=0.002)
    with zipfile.ZipFile(bad, "w") as packed:
        packed.writestr("Train/a", "x")
        packed.writestr("Train/a/b", "x")
    refused(tmp_path / "to", "'Train/a/b' occurs twice", path=str(bad))
    with tarfile.open(bad, "w") as tar:
        tar.addfile(tarfile.TarInfo("a"))
        tar.addfile(tarfile.TarInfo("a"))
    refused(tmp_path / "to", "'a' occurs twice", path=str(bad))


def test_macos_metadata_is_ignored_and_backslashes_separate_folders(scenes, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        for file in (file for file in scenes.rglob("*") if file.is_file()):
            name = str(file.relative_to(scenes)).replace("/", "\\")
            packed.writestr(name, file.read_bytes())
            packed.writestr(f"__MACOSX/{file.name}{name}", "x")
        packed.writestr("train/vase/rgb/._0.png", "x")
    install(tmp_path / "to", path=str(tmp_path / "a.zip"))
    assert complete(tmp_path / "to")


class Server(http.server.BaseHTTPRequestHandler):
    """Serves ``data`` under every path; closes the connection after ``cut`` bytes."""

    data, ranges, cut, tag, length = b"", True, None, '"1"', True

    def do_GET(self):
        span = self.headers["Range"]
        self.requested.append(span)
        if self.path == "/absent.zip":
            return self.send_error(404)
        fresh = self.headers["If-Range"] in (None, self.tag)
        start = int(span[6:-1]) if span and self.ranges and fresh else 0
        if start >= len(self.data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(self.data)}")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(self.data) - 1}/{len(self.data)}")
        if self.length:
            self.send_header("Content-Length", str(len(self.data) - start))
        if self.tag:
            self.send_header("ETag", self.tag)
        self.end_headers()
        return self.wfile.write(self.data[start : self.cut])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(archive):
    handler = type("Handler", (Server,), {"data": archive.read_bytes(), "requested": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        handler.url = f"http://127.0.0.1:{running.server_port}/some%20where/synthetic_scenes.zip?x=1"
        yield handler
        running.shutdown()
        thread.join()


def downloaded(root: Path, suffix: str = "") -> list:
    return [p.stat().st_size for p in root.glob(f".official.partial/*/synthetic_scenes.zip{suffix}")]


def test_download(server, tmp_path, capsys, monkeypatch):
    install(tmp_path, url=server.url)
    assert complete(tmp_path)
    assert json.loads((tmp_path / "test" / "vase" / "dataset.json").read_text())["archive"] == server.url
    install(tmp_path, url=server.url)
    assert "nothing to do" in capsys.readouterr().out
    assert server.requested == [None]


@pytest.mark.parametrize("tag", ['"1"', 'W/"1"', None])
def test_interrupted_download_continues(server, tmp_path, tag):
    server.cut, server.tag = 4000, tag
    line = refused(tmp_path, "cut off after 0.0 of .* MB; run the same command again to continue", url=server.url)
    assert line.startswith(server.url)
    assert downloaded(tmp_path, ".part") == [4000]
    server.cut = 6000
    refused(tmp_path, "run the same command again", url=server.url)
    assert downloaded(tmp_path, ".part") == [6000]
    server.cut = None
    install(tmp_path, url=server.url)
    assert complete(tmp_path)
    assert server.requested == [None, "bytes=4000-", "bytes=6000-"]


@pytest.mark.parametrize("change", [{"ranges": False}, {"tag": '"2"'}])
def test_download_starts_over_if_it_cannot_continue(server, tmp_path, capsys, change):
    server.cut = 4000
    refused(tmp_path, "run the same command again", url=server.url)
    server.cut = None
    for key, value in change.items():
        setattr(server, key, value)
    install(tmp_path, url=server.url)
    record = json.loads((tmp_path / "train" / "vase" / "dataset.json").read_text())
    assert record["sha256"] == hashlib.sha256(server.data).hexdigest()  # zip readers ignore leading bytes
    assert "starting over" in capsys.readouterr().out


@pytest.mark.parametrize("extra", [0, 7])
def test_partial_file_that_is_complete_or_too_long(server, tmp_path, extra):
    server.cut = 4000
    refused(tmp_path, "run the same command again", url=server.url)
    server.cut = None
    (part,) = tmp_path.glob(".official.partial/*/*.part")
    part.write_bytes(server.data + bytes(extra))
    install(tmp_path, url=server.url)
    assert complete(tmp_path)
    assert len(server.requested) == (3 if extra else 2)


def test_download_of_unknown_length(server, tmp_path):
    server.length = False
    install(tmp_path, url=server.url)
    assert complete(tmp_path)


def test_failed_downloads(server, tmp_path):
    root = server.url.split("/some")[0]
    refused(tmp_path, "404 Not Found; give another source.url, or download it in a browser", url=f"{root}/absent.zip")
    refused(tmp_path, "refused.*run the same command again", url="http://127.0.0.1:1/a.zip")
    refused(tmp_path, "run the same command again", url="http://127.0.0.1:1/a b.zip")
    refused(tmp_path, "must be an http", url="ftp://host/a.zip")
    refused(tmp_path, "must be an http", url="synthetic_scenes_of_deepvoxels.zip")
    refused(tmp_path, "must be an http", url="https://drive.google.com/drive/my-drive")
    assert not list(tmp_path.iterdir())


def test_bad_download_is_kept_and_named(server, tmp_path):
    refused(tmp_path, "delete the file and run again", url=server.url, sha256="0" * 64)
    assert downloaded(tmp_path) == [len(server.data)]
    server.data = b"no archive"
    shutil.rmtree(tmp_path / ".official.partial")
    refused(
        tmp_path,
        "synthetic_scenes.zip .downloaded from http.*; delete it to download it again.: not a zip",
        url=server.url,
    )


def test_full_disk_while_downloading_is_not_a_user_error(server, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "_receive", full)
    with pytest.raises(OSError, match="No space left"):
        install(tmp_path, url=server.url)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "url", [DRIVE, "https://drive.google.com/file/d/1lUvJWB6oFtT8EQ_NzBrXnmi25BufxRfl/view", DRIVE[-33:]]
)
def test_drive_file(archive, tmp_path, monkeypatch, url):
    requested = {}

    def download(id, output, resume):
        requested.update(id=id, output=output, resume=resume)
        return shutil.copy(archive, output)

    monkeypatch.setattr(gdown, "download", download)
    install(tmp_path, url=url)
    assert complete(tmp_path)
    assert (requested["id"], requested["resume"]) == (DRIVE[-33:], True)
    assert requested["output"].endswith("/")


File = namedtuple("File", "id path local_path")


@pytest.mark.parametrize(
    ("names", "chosen"),
    [(["a.tar.gz", "readme.md"], 0), (["real.zip", "synthetic_scenes.zip"], 1), (["a.zip", "b.zip"], None), ([], None)],
)
def test_drive_folder(archive, tmp_path, monkeypatch, names, chosen):
    requested = []
    files = [File(f"id{i}", name, name) for i, name in enumerate(names)]
    monkeypatch.setattr(gdown, "download_folder", lambda **options: files if options["skip_download"] else None)
    monkeypatch.setattr(
        gdown, "download", lambda **options: requested.append(options["id"]) or shutil.copy(archive, options["output"])
    )
    if chosen is None:
        refused(
            tmp_path, "exactly one archive of synthetic scenes, but has (a.zip: https.*id=id0, b.zip|none)", url=FOLDER
        )
    else:
        install(tmp_path, url=FOLDER)
        assert requested == [f"id{chosen}"]


def test_drive_errors(tmp_path, monkeypatch):
    import requests

    def failing(error):
        def download(**arguments):
            raise error

        monkeypatch.setattr(gdown, "download", download)

    failing(gdown.FileURLRetrievalError("Failed:\n\n\tToo many users have viewed or downloaded this file recently"))
    refused(tmp_path, "not downloaded .Failed: Too many users .*source.path=ARCHIVE", url=DRIVE)
    failing(gdown.DownloadError("Download is incomplete"))
    refused(tmp_path, "incomplete.; run the same command again to continue", url=DRIVE)
    failing(requests.ConnectionError("no route"))
    refused(tmp_path, "no route", url=DRIVE)
    failing(OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space"):
        install(tmp_path, url=DRIVE)
    monkeypatch.setitem(__import__("sys").modules, "gdown", None)
    refused(tmp_path, r"pip install 'dv\[official\]'", url=DRIVE)
    assert not list(tmp_path.iterdir())


def test_no_heavy_packages_are_imported():
    import subprocess
    import sys

    heavy = "import dv.synthetic.official, sys; print({'torch', 'gdown', 'requests'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert out.stdout == "set()\n"
