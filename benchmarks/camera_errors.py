"""How exact the cameras of a training with noise were, before and after their refinement.

python train.py … data.noise_angle=1 model.camera_rate=0.003
python benchmarks/camera_errors.py outputs/train/OBJECT/RUN/checkpoints/last.ckpt
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from frames import source_of
from torch import Tensor

from dv.checkpoint import read_checkpoint
from dv.lightning.camera_refinement import CameraRefinement


def camera_errors(poses: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """Compare poses ``[V, 4, 4]`` with true ones, after the similarity that fits the cameras best.

    Returns:
        Angles ``[V]``, degrees, and distances of the centres ``[V]``, world units.

    >>> true = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    >>> true[:, :3, 3] = torch.eye(3)
    >>> angle, distance = camera_errors(true, true)
    >>> bool(angle.max() < 1e-5), bool(distance.max() < 1e-9)
    (True, True)
    """
    u, _, vt = torch.linalg.svd((true[:, :3, :3] @ poses[:, :3, :3].transpose(1, 2)).sum(0))
    common = u @ torch.diag(torch.tensor([1.0, 1.0, float(torch.det(u @ vt))], dtype=u.dtype)) @ vt
    apart = common @ poses[:, :3, :3] @ true[:, :3, :3].transpose(1, 2)
    cosine = ((apart.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1)
    centers, goals = (p[:, :3, 3] - p[:, :3, 3].mean(0) for p in (poses, true))
    turned = centers @ common.T
    turned = turned * ((turned * goals).sum() / turned.square().sum())
    return cosine.arccos().rad2deg(), (turned - goals).norm(dim=1)


def main() -> None:
    """Print the mean errors of the training cameras as given and as refined."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt", type=Path)
    checkpoint = read_checkpoint(parser.parse_args().ckpt)
    assert checkpoint.config is not None
    assert checkpoint.placement is not None
    data, source = checkpoint.config["data"], source_of(checkpoint)
    noise = {"noise_angle": data["noise_angle"], "noise_distance": data["noise_distance"]}
    true, given = source.views("train").poses.double(), replace(
        source, splits={}, noise_seed=checkpoint.config["seed"], **noise
    ).views("train").poses  # fmt: skip
    state = torch.load(checkpoint.path, map_location="cpu", weights_only=False)["state_dict"]
    states = {"as given": given.double()}
    if "camera_refinement.rotation" in state:
        refinement = CameraRefinement(given, checkpoint.placement.scale)
        with torch.no_grad():
            refinement.rotation.copy_(state["camera_refinement.rotation"])
            refinement.shift.copy_(state["camera_refinement.shift"])
            states["refined"] = refinement(given, torch.arange(len(given))).double()
    for name, poses in states.items():
        angle, distance = camera_errors(poses, true)
        print(
            f"{name}: mean angle {angle.mean():.3f}°, mean distance {distance.mean() / checkpoint.placement.scale:.5f} "
            "sides of the box"
        )


if __name__ == "__main__":
    main()
