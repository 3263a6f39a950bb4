"""``prepare.py``: make or import the pictures of an object, in the DeepVoxels folder format."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from omegaconf import DictConfig

from dv.errors import UserError
from dv.tasks.command import run


def prepare(config: DictConfig) -> None:
    """Write the object of ``source`` to ``output_dir/<split>/<object.name>`` and print how to train on it."""
    from dv.data.synthetic import SyntheticSettings, render_synthetic
    from dv.tasks.settings import check_devices

    check_devices(config.trainer.gpus)
    root = Path(config.output_dir or config.object.root)
    name = str(config.object.name)
    if config.source.name != "synthetic":
        raise UserError(f"source={config.source.name} must be synthetic")
    settings = SyntheticSettings(**{f.name: config.source[f.name] for f in fields(SyntheticSettings)})
    render_synthetic(name, root, settings)
    print(f"next: python train.py object={name} object.root={root}")


def main() -> None:
    """Command line."""
    run("prepare", prepare)


if __name__ == "__main__":
    main()
