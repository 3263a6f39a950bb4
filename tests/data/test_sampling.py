import numpy as np
import pytest
import torch

from conftest import write_object
from dv.data.datamodule import ObjectDataModule
from dv.data.object import ObjectSource
from dv.data.sampling import RankViews, StepLayout, TrainingSteps


def steps_of(ball, seed=0) -> TrainingSteps:
    return TrainingSteps(ObjectSource(ball, "ball", image_side=32).views("train"), 200, seed)


def test_every_view_is_the_first_target_once_per_epoch(ball):
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
    assert len(seen) > 2 * len(steps.views)  # spread over all four neighbours


def test_sampling_is_a_function_of_seed_and_step(ball):
    assert [steps_of(ball).sample(i) for i in range(50)] == [steps_of(ball).sample(i) for i in range(50)]
    assert [steps_of(ball).sample(i) for i in range(50)] != [steps_of(ball, 1).sample(i) for i in range(50)]


def test_batch_holds_the_sampled_views(ball):
    steps = steps_of(ball)
    [[loaded]], sample = steps[7], steps.sample(7)
    assert torch.equal(loaded.source_image[0], steps.views.images[sample.source])
    assert torch.equal(loaded.target_images, steps.views.images[list(sample.targets)])
    assert torch.equal(loaded.target_poses, steps.views.poses[list(sample.targets)])
    assert loaded.source_image.dtype == torch.uint8


@pytest.mark.parametrize(("batch_size", "rounds", "ranks"), [(1, 1, 1), (1, 1, 3), (2, 1, 2), (1, 3, 2), (3, 2, 4)])
def test_ranks_share_the_samples_of_one_process(batch_size, rounds, ranks):
    shared, alone = StepLayout(batch_size, rounds, ranks), StepLayout(batch_size * ranks, rounds)
    assert shared.samples == alone.samples == batch_size * rounds * ranks
    for step in range(3):
        parts = [shared.sample_numbers(step, rank) for rank in range(ranks)]
        joined = [[i for part in parts for i in part[round_index]] for round_index in range(rounds)]
        assert joined == [list(numbers) for numbers in alone.sample_numbers(step, 0)]
        first = step * shared.samples
        assert [i for numbers in joined for i in numbers] == list(range(first, first + shared.samples))


@pytest.mark.parametrize(("count", "ranks"), [(1, 1), (7, 1), (7, 2), (2, 3), (6, 3), (1, 4)])
def test_every_view_counts_once_and_all_ranks_get_equally_many(count, ranks):
    shares = [list(RankViews(count, rank, ranks)) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    assert sorted(i for share in shares for i, counts in share if counts) == list(range(count))
    assert all(0 <= i < count for share in shares for i, _ in share)


def test_loader_yields_all_steps_and_does_not_copy_the_views(ball):
    source = ObjectSource(ball, "ball", image_side=32)
    module = ObjectDataModule(source, steps=5, seed=0)
    assert [samples[0].number for [samples] in module.train_dataloader()] == list(range(5))
    assert [view.name for view in module.val_dataloader()] == source.views("validation").names
    assert source.views("train").images.data_ptr() == module.train_dataloader().dataset.views.images.data_ptr()
