"""Wavefront OBJ files with their materials and textures, read with trimesh."""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

from dv.errors import UserError
from dv.prepare.named_images import NamedImages
from dv.runtime.foreign_files import files_in, read_text, same_name

# Options of map_Kd and how many words follow them; of those with None, up to three numbers
OPTIONS = {
    "-blendu": 1, "-blendv": 1, "-bm": 1, "-boost": 1, "-cc": 1, "-clamp": 1, "-imfchan": 1, "-mm": 2, "-texres": 1,
    "-type": 1, "-o": None, "-s": None, "-t": None,
}  # fmt: skip


def read_obj(path: Path) -> Any:
    """Return an OBJ file as a ``trimesh.Scene``, with the textures that its MTL files name.

    Raises:
        UserError: if a file of materials or a texture is not found.
    """
    import trimesh

    obj_files(path)  # trimesh would go on without those that it does not find
    text = absolute_indices(read_text(path))
    return trimesh.load_scene(StringIO(text), file_type="obj", resolver=_Materials(path), process=False)


def obj_files(path: Path) -> list[Path]:
    """Return the files of materials and textures that an OBJ file uses.

    Raises:
        UserError: if one of them is not found.
    """
    materials = _Materials(path)
    found = []
    for library in _libraries(read_text(path)):
        found.append(materials.file(library))
        found += [materials.file(name) for name in _textures(read_text(found[-1]))]
    return list(dict.fromkeys(found))


class _Materials:
    """Finds the files that an OBJ file names, under the names that other systems give them; trimesh asks for them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._images = NamedImages(path.parent, ["."])

    def get(self, name: str) -> bytes:
        """Return the content of a file; materials without options of textures, which trimesh takes for their names."""
        file = self.file(name)
        if file.suffix.lower() != ".mtl":
            return file.read_bytes()
        lines = (_without_options(line) for line in read_text(file).splitlines())
        return "\n".join(lines).encode()

    def __getitem__(self, name: str) -> bytes:
        return self.get(name)

    def file(self, name: str) -> Path:
        """Return the file that a name means.

        Raises:
            UserError: if there is none.
        """
        relative = name.strip().replace("\\", "/")
        exact = self.path.parent / relative
        if exact.is_file():
            return exact
        if relative.lower().endswith(".mtl"):
            wanted = same_name(Path(relative).name)
            found = [file for file in files_in(self.path.parent, {".mtl"}) if same_name(file.name) == wanted]
            image = found[0] if found else None
        else:
            image = self._images.find(name)
        if image is None:
            raise UserError(
                f"{self.path}: {name} is not found; put it beside the mesh, or remove the line that names it"
            )
        return image


def _libraries(text: str) -> Iterator[str]:
    """Yield the names of MTL files, which may have spaces."""
    for line in text.splitlines():
        if line.strip().startswith("mtllib "):
            yield line.strip().removeprefix("mtllib ").strip()


def _textures(text: str) -> Iterator[str]:
    for line in text.splitlines():
        words = _without_options(line).split(maxsplit=1)
        if len(words) == 2 and words[0].lower() == "map_kd":
            yield words[1].strip()


def _without_options(line: str) -> str:
    """Return a line ``map_Kd -s 1 1 1 file.png`` as ``map_Kd file.png``; other lines as they are.

    >>> _without_options("map_Kd -s 1 1 1 -bm 0.5 red one.png"), _without_options("Kd 1 0 0")
    ('map_Kd red one.png', 'Kd 1 0 0')
    """
    words = line.strip().split()
    if not words or words[0].lower() != "map_kd":
        return line
    rest = words[1:]
    while rest and rest[0] in OPTIONS:
        count = OPTIONS[rest.pop(0)]
        for _ in range(count or 3):
            if rest and (count or re.fullmatch(r"[-+.\deE]+", rest[0])):
                rest.pop(0)
    return " ".join(["map_Kd", *rest])


def absolute_indices(text: str) -> str:
    """Return the text of an OBJ file with indices that count from its beginning.

    Negative ones count back from their own line, -1 being the last vertex before it (Wavefront's specification, "Face
    elements"); trimesh counts them from the end of the file.

    >>> absolute_indices("v 0 0 0\\nv 1 0 0\\nv 0 1 0\\nf -3 -2 -1\\nv 0 0 1\\n").splitlines()[3]
    'f 1 2 3'
    """
    if not re.search(r"^\s*[flp]\s.*-\d", text, re.MULTILINE):
        return text
    kinds = ("v", "vt", "vn")  # in the order in which a corner names them: v/vt/vn
    counts = dict.fromkeys(kinds, 0)
    lines = []
    for line in text.replace("\\\n", " ").split("\n"):
        word, *corners = line.split() or [""]
        if word in counts:
            counts[word] += 1
        elif word in ("f", "l", "p") and "-" in line:
            corners = corners[: corners.index("#")] if "#" in corners else corners
            indices = [
                [str(counts[kind] + 1 + int(i)) if i.startswith("-") else i
                 for kind, i in zip(kinds, corner.split("/"), strict=False)]
                for corner in corners
            ]  # fmt: skip
            line = " ".join([word, *("/".join(corner) for corner in indices)])
        lines.append(line)
    return "\n".join(lines)
