"""nerfstudio's nerfacto on a CPU, with its own reader of data, model and optimisers.

    python -m venv ENV && ENV/bin/pip install nerfstudio==1.1.5 torch==2.13.0
    ENV/bin/python benchmarks/peers/nerfacto.py EXPORTED RESULT --seconds 60

The configuration is that of ``ns-train nerfacto --machine.device-type cpu --pipeline.model.implementation torch
--mixed-precision False``, with what suits exact cameras around an object before a plain background: no refinement of
cameras, no appearance codes, no scene contraction, a background of the images' colour, and the world scaled so that the
box has a side of 2.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from exported import read_views, write_result

try:
    import_module("torchvision")
except RuntimeError:  # PyPI's torchvision beside a PyTorch of another build: its compiled operators, which are not used
    for name in [name for name in sys.modules if name.startswith("torchvision")]:
        del sys.modules[name]
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from nerfstudio.configs.method_configs import method_configs
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.callbacks import TrainingCallbackLocation as At
from nerfstudio.engine.trainer import Trainer
from torchmetrics.image import lpip

lpip.LearnedPerceptualImagePatchSimilarity = lambda **_: torch.nn.Identity()  # would download weights for a metric


def configure(exported: Path, background: str, output: Path) -> Any:
    """Return the configuration of a trainer.

    Args:
        exported: folder that ``prepare.py source=export`` wrote.
        background: ``white`` or ``black``.
        output: folder for nerfstudio's own files.
    """
    config: Any = deepcopy(method_configs["nerfacto"])
    box = json.loads((exported / "transforms.json").read_text())["dv_grid"]
    parser = NerfstudioDataParserConfig(
        data=exported,
        scale_factor=2 / box["scale"],
        orientation_method="none",
        center_method="none",
        auto_scale_poses=False,
        downscale_factor=1,
    )
    config.pipeline.datamanager = VanillaDataManagerConfig(dataparser=parser, train_num_rays_per_batch=4096)
    config.pipeline.model.camera_optimizer.mode = "off"
    config.pipeline.model.use_appearance_embedding = False
    config.pipeline.model.disable_scene_contraction = True
    config.pipeline.model.background_color = background
    config.pipeline.model.implementation = "torch"
    config.pipeline.model.eval_num_rays_per_chunk = 4096  # larger ones do not fit the caches
    config.machine.device_type = "cpu"
    config.mixed_precision = False
    config.vis = "tensorboard"  # no viewer
    config.output_dir, config.data = output, exported
    config.set_timestamp()
    return config


def train(trainer: Trainer, seconds: float) -> int:
    """Take training steps for some seconds, as ``Trainer.train`` takes them, and return their number."""
    start, step = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        trainer.pipeline.train()
        for location in (At.BEFORE_TRAIN_ITERATION, At.AFTER_TRAIN_ITERATION):
            if location == At.AFTER_TRAIN_ITERATION:
                trainer.train_iteration(step)
            for callback in trainer.callbacks:
                callback.run_callback_at_location(step, location=location)
        step += 1
    return step


def main() -> None:
    """Train on an exported object and write its test views."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exported", type=Path, help="folder that prepare.py source=export wrote")
    parser.add_argument("result", type=Path, help="folder to write")
    parser.add_argument("--seconds", type=float, default=60, help="of training")
    parser.add_argument("--every", type=int, default=10, help="render every n-th test view: each takes half a minute")
    arguments = parser.parse_args()
    color = read_views(arguments.exported, "train").corner_color()
    background = "white" if color.mean() > 0.5 else "black"
    with TemporaryDirectory() as folder:
        torch.manual_seed(0)
        trainer = Trainer(configure(arguments.exported.absolute(), background, Path(folder)))
        trainer.setup("test")
        steps = train(trainer, arguments.seconds)
        trainer.pipeline.eval()
        cameras = trainer.pipeline.datamanager.eval_dataset.cameras
        rendered = [
            trainer.pipeline.model.get_outputs_for_camera(cameras[i : i + 1])["rgb"].numpy()
            for i in range(0, len(cameras), arguments.every)
        ]
    write_result(arguments.result, np.stack(rendered), arguments.seconds, steps, arguments.every)


if __name__ == "__main__":
    main()
