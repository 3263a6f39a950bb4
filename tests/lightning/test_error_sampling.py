"""Draws by error follow the errors of each run of pixels, and dividing by their likelihood gives even means."""

import math

import torch

from dv.lightning.error_sampling import MAX_RELATIVE_ERROR, RUN, ErrorSampling


def likelihoods_by_loop(pool, errors, share):
    """Relative likelihood of each pixel of a pool, from the recorded errors {pixel: error}."""
    of_run = {}
    for pixel, error in errors.items():
        of_run.setdefault(pixel // RUN, []).append(error)
    mean_of_run = {run: sum(values) / len(values) for run, values in of_run.items()}
    known = [mean_of_run[pixel // RUN] for pixel in pool if pixel // RUN in mean_of_run]
    mean = sum(known) / len(known) if known else 0.0
    relative = [
        min(mean_of_run[pixel // RUN] / mean, MAX_RELATIVE_ERROR) if mean and pixel // RUN in mean_of_run else 1.0
        for pixel in pool
    ]
    raw = [share * value + 1 - share for value in relative]
    return [value * len(raw) / sum(raw) for value in raw]


def test_draws_follow_the_errors():
    g = torch.Generator().manual_seed(0)
    pixels = 203
    pool = torch.sort(torch.randperm(pixels, generator=g)[:150]).values.to(torch.int32)
    visited = torch.randperm(pixels, generator=g)[:120]
    errors = torch.rand(120, generator=g) ** 4
    sampling = ErrorSampling(pixels, share=0.7)
    sampling.set_pool(pool)
    sampling.record(visited, errors)
    assert sampling.draw(1000, g)[1].eq(1).all(), "recorded errors count from their renewal on"
    sampling.renew()
    recorded = dict(zip(visited.tolist(), errors.tolist(), strict=True))
    expected = torch.tensor(likelihoods_by_loop(pool.tolist(), recorded, 0.7))
    assert expected.max() > 3 * expected.min()
    places, likelihoods = sampling.draw(400_000, g)
    torch.testing.assert_close(likelihoods, expected[places])
    counts = torch.bincount(places, minlength=150).float()
    deviation = (counts - expected * 400_000 / 150) / (expected * 400_000 / 150).sqrt()
    assert deviation.abs().max() < 5
    values = torch.rand(150, generator=g)
    assert math.isclose(float((values[places] / likelihoods).mean()), float(values.mean()), rel_tol=0.01)


def test_without_errors_draws_are_even():
    sampling = ErrorSampling(64, share=1.0)
    sampling.set_pool(torch.arange(64))
    for errors in (None, torch.zeros(64)):
        if errors is not None:
            sampling.record(torch.arange(64), errors)
            sampling.renew()
        places, likelihoods = sampling.draw(10_000, torch.Generator().manual_seed(1))
        assert likelihoods.eq(1).all()
        assert len(places.unique()) == 64


def test_other_pools_use_the_same_errors():
    sampling = ErrorSampling(64, share=1.0)
    sampling.set_pool(torch.arange(64))
    sampling.record(torch.arange(64), torch.arange(64.0))
    sampling.renew()
    sampling.set_pool(torch.tensor([0, 1, 60]))
    places, _ = sampling.draw(1000, torch.Generator().manual_seed(1))
    counts = torch.bincount(places, minlength=3)
    assert counts[2] > 5 * counts[:2].sum()
