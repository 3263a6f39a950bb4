"""The reader of every format of images with known cameras, by the name of its ``source``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dv.config.prepare import PosedSource
from dv.importers.bundler import read_bundler
from dv.importers.co3d import read_co3d
from dv.importers.colmap import read_colmap
from dv.importers.folder import read_folder
from dv.importers.llff import read_llff
from dv.importers.meshroom import read_meshroom
from dv.importers.metashape import read_metashape
from dv.importers.middlebury import read_middlebury
from dv.importers.nerfpp import read_nerfpp
from dv.importers.neus import read_neus
from dv.importers.nsvf import read_nsvf
from dv.importers.openmvg import read_openmvg
from dv.importers.opensfm import read_opensfm
from dv.importers.polycam import read_polycam
from dv.importers.realitycapture import read_realitycapture
from dv.importers.record3d import read_record3d
from dv.importers.transforms import read_transforms
from dv.prepare.photographs import PhotographSet

LAYOUTS: dict[str, Callable[[Path], PhotographSet]] = {
    "nsvf": read_nsvf,
    "nerfpp": read_nerfpp,
    "polycam": read_polycam,
    "record3d": read_record3d,
}
NAMED_IMAGES: dict[str, Callable[[Path, Path | None], PhotographSet]] = {
    "transforms": read_transforms,
    "colmap": read_colmap,
    "llff": read_llff,
    "neus": read_neus,
    "metashape": read_metashape,
    "realitycapture": read_realitycapture,
    "opensfm": read_opensfm,
    "openmvg": read_openmvg,
    "meshroom": read_meshroom,
    "bundler": read_bundler,
}
OWN_KEYS = ("images", "par", "input_pixel_center", "object", "sequence")


def read_posed(path: Path, source: PosedSource) -> PhotographSet:
    """Read images with known cameras as ``source.name`` says.

    Raises:
        UserError: one that lists every fault of the files.
    """
    own = own_keys(source)
    if source.name in LAYOUTS:
        return LAYOUTS[source.name](path)
    if source.name in NAMED_IMAGES:
        return NAMED_IMAGES[source.name](path, _path(own["images"]))
    if source.name == "co3d":
        return read_co3d(path, own["sequence"])
    if source.name == "middlebury":
        return read_middlebury(path, _path(own["par"]), own["input_pixel_center"])
    return read_folder(path, own["object"] or path.resolve().name)


def own_keys(source: PosedSource) -> dict[str, Any]:
    """Return the keys that only some sources have; None for those that this one has not."""
    return {key: getattr(source, key, None) for key in OWN_KEYS}


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
