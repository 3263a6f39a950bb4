"""How far an exported mesh is from the mesh that its object was rendered from, both ways.

    python export.py ckpt=PATH format=mesh output_dir=DIR
    python benchmarks/meshes.py DIR/vase.ply vase data/demo/train/vase

Points are drawn evenly over both surfaces; distances are to the nearest point of the other one, as fractions of the
box's side, which is 1. Of the true surface only what the training views see counts: the underside cannot be learned.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from scipy.spatial import cKDTree

from dv.synthetic.mitsuba_scene import import_mitsuba, load_scene
from dv.synthetic.render import SCENES

POINTS = 400_000
TRUE_POINTS = 20_000  # whose visibility is tested
CLEARANCE = 1e-3  # world units, between a point and the first surface on the ray from a camera


def seen(scene: Any, points: np.ndarray, poses: list[np.ndarray]) -> np.ndarray:
    """Return which points ``[N, 3]`` at least one camera sees in its image, which shows the whole object."""
    import mitsuba as mi

    def is_seen(point: np.ndarray) -> bool:
        for pose in poses:
            direction = point - pose[:3, 3]
            distance = float(np.linalg.norm(direction))
            ray = mi.Ray3f(pose[:3, 3].tolist(), (direction / distance).tolist())
            if scene.ray_intersect(ray).t > distance - CLEARANCE:
                return True
        return False

    return np.array([is_seen(point) for point in points])


def summary(name: str, distances: np.ndarray) -> str:
    """Return mean, median and 95 % quantile in percent."""
    mean, median, most = 100 * np.array([distances.mean(), *np.quantile(distances, [0.5, 0.95])])
    return f"{name}: mean {mean:.3f} %, median {median:.3f} %, 95 % are below {most:.3f} %"


def main() -> None:
    """Print the distances of both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mesh", type=Path)
    parser.add_argument("object", choices=[name for name in SCENES if name != "still_life"])
    parser.add_argument("views", type=Path, help="folder of the training views")
    arguments = parser.parse_args()
    import_mitsuba().set_variant("scalar_rgb")
    rng = np.random.default_rng(0)
    shapes = SCENES[arguments.object]()
    truth = trimesh.util.concatenate([trimesh.Trimesh(s.vertices, s.faces, process=False) for s in shapes])
    found = trimesh.load(arguments.mesh, process=False)
    true, drawn = (trimesh.sample.sample_surface(mesh, POINTS, seed=rng)[0] for mesh in (truth, found))
    poses = [np.loadtxt(file).reshape(4, 4) for file in sorted((arguments.views / "pose").glob("*.txt"))]
    some = true[:TRUE_POINTS]  # they are in random order
    visible = some[seen(load_scene(shapes), some, poses)]
    print(f"{arguments.mesh}: {len(found.faces)} triangles; views see {len(visible) / len(some):.0%} of the surface")
    print(summary("from the mesh to the true surface", cKDTree(true).query(drawn)[0]))
    print(summary("from what is seen to the mesh", cKDTree(drawn).query(visible)[0]))


if __name__ == "__main__":
    main()
