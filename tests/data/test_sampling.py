import numpy as np
import torch

from conftest import write_object
from dv.data.datamodule import ObjectDataModule
from dv.data.object import ObjectSource
from dv.data.sampling import TrainingSteps


def steps_of(ball, seed=0) -> TrainingSteps:
    return TrainingSteps(ObjectSource(ball, "ball", image_side=32).views("train"), 200, seed)


def test_every_target_comes_once_an_epoch(ball):
    steps = steps_of(ball)
    n = len(steps.views)
    for epoch in range(3):
        targets = [steps.sample(epoch * n + i).targets[0] for i in range(n)]
        assert sorted(targets) == list(range(n))
    assert [steps.sample(i).targets[0] for i in range(n)] != [steps.sample(n + i).targets[0] for i in range(n)]


def test_sources_are_among_the_four_nearest_and_never_the_target(tmp_path):
    steps = steps_of(write_object(tmp_path, train=12))
    axes = steps.views.poses[:, :3, 2].numpy()
    cosine = axes @ axes.T
    seen = set()
    for i in range(200):
        source, (target, _) = steps.sample(i)
        assert source != target
        order = [j for j in np.argsort(-cosine[target]) if j != target]
        assert source in order[:4]
        seen.add((target, source))
    assert len(seen) > 2 * len(steps.views)  # evenly among the four


def test_sampling_is_a_function_of_seed_and_step(ball):
    assert [steps_of(ball).sample(i) for i in range(50)] == [steps_of(ball).sample(i) for i in range(50)]
    assert [steps_of(ball).sample(i) for i in range(50)] != [steps_of(ball, 1).sample(i) for i in range(50)]


def test_batch_holds_the_sampled_views(ball):
    steps = steps_of(ball)
    batch, step = steps[7], steps.sample(7)
    assert torch.equal(batch.source_image[0], steps.views.images[step.source])
    assert torch.equal(batch.target_images, steps.views.images[list(step.targets)])
    assert torch.equal(batch.target_poses, steps.views.poses[list(step.targets)])
    assert batch.source_image.dtype == torch.uint8


def test_loader_gives_all_steps_and_the_views_once_in_memory(ball):
    source = ObjectSource(ball, "ball", image_side=32)
    module = ObjectDataModule(source, steps=5, seed=0)
    assert [batch.step for batch in module.train_dataloader()] == list(range(5))
    assert [view.name for view in module.val_dataloader()] == source.views("validation").names
    assert source.views("train").images.data_ptr() == module.train_dataloader().dataset.views.images.data_ptr()
