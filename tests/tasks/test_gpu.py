"""Both models on a GPU: training with images, resuming, evaluation and rendering."""

import pytest
import torch

from conftest import TINY, TINY_RADIANCE, step_overrides
from faults import read_weights

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

MODELS = {"deepvoxels": TINY, "radiance_grid": TINY_RADIANCE}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_evaluation_and_rendering_run_on_a_gpu(command, ball, tmp_path, model, precision):
    arguments = ["object=custom", f"object.root={ball}", "object.name=ball", *MODELS[model], "trainer.gpus=1"]
    run, precision_override = tmp_path / "run", f"trainer.precision={precision}"
    for steps, more in ((20, []), (40, ["resume=auto"])):
        result = command(
            "train", *arguments, precision_override, *step_overrides(20), f"trainer.max_steps={steps}", *more
        )
        assert result.code == 0, result.err
        assert (run / "pictures" / f"views_{steps:07d}.png").is_file()
    assert all(value.isfinite().all() for value in read_weights(run / "checkpoints" / "last.ckpt").values())
    ckpt = f"ckpt={run / 'checkpoints' / 'last.ckpt'}"
    for task, expected in (("evaluate", "metrics.json"), ("render", "video.mp4")):
        result = command(task, ckpt, "trainer.gpus=1", f"output_dir={tmp_path / task}")
        assert result.code == 0, result.err
        assert (tmp_path / task / expected).stat().st_size
