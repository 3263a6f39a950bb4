"""Compositing equals a plain loop over samples, forward and backward. Pruning, refining and smoothing of voxels."""

import itertools
import math
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from dv.nets.voxels import EMPTY_DENSITY, SparseVoxels
from dv.ops import compositing_cpu
from dv.ops.compositing import Rays, composite, composite_reference, empty_space_distance, ray_grid_intersection
from dv.ops.compositing_reference import MIN_ALPHA, MIN_TRANSMITTANCE

STEP_SIZE, INTERVAL = 0.5, 1.3


def scene(seed, dtype=torch.float64):
    """Return random sparse voxels, and rays that start outside or inside, run parallel to the axes or miss the grid.

    Seeds 1 and 3 have two and three levels.
    """
    g = torch.Generator().manual_seed(seed)
    side, channels, levels = 4 + 3 * seed, 1 + 2 * seed, (1, 2, 1, 3)[seed]
    stored = torch.rand(levels, side, side, side, generator=g) < 0.4
    stored[..., : side // 3] = False
    rows = int(stored.sum()) + 1
    index = torch.zeros(levels, side, side, side, dtype=torch.int32)
    index[stored] = (1 + torch.randperm(rows - 1, generator=g)).to(torch.int32)
    density = torch.randn(rows, generator=g, dtype=dtype) * 4 + 1
    features = torch.randn(rows, channels, generator=g, dtype=dtype)
    density[0], features[0] = EMPTY_DENSITY, 0
    count = 40
    origins = F.normalize(torch.randn(count, 3, generator=g, dtype=dtype), dim=1) * side * 1.5 + side / 2
    origins[:5] = torch.rand(5, 3, generator=g, dtype=dtype) * side
    target = torch.rand(count, 3, generator=g, dtype=dtype) * side
    directions = F.normalize(target - origins, dim=1) * (1 + torch.rand(count, 1, generator=g, dtype=dtype))
    for axis in range(3):
        origins[5 + axis] = side / 2 - 3 * side * torch.eye(3, dtype=dtype)[axis]
        directions[5 + axis] = 2 * torch.eye(3, dtype=dtype)[axis]
    directions[8] *= -1
    rays = Rays(origins, directions, torch.rand(count, generator=g, dtype=dtype))
    return density, features, index, rays


def cells(vertices):
    return F.max_pool3d(vertices.double()[:, None], 2, 1)[:, 0] > 0


def spans_by_level(o, d, side, levels, near):
    """Return (level, start, end) between all points where a ray crosses a cube, with the innermost cube around it."""
    middle, crossings = (side - 1) / 2, {near}
    for level, axis, sign in itertools.product(range(levels), range(3), (-1, 1)):
        if d[axis] != 0:
            crossings.add(float((middle + sign * middle * 2**level - o[axis]) / d[axis]))
    crossings = sorted(t for t in crossings if t >= near)
    spans = []
    for start, end in itertools.pairwise(crossings):
        point = o + (start + end) / 2 * d
        distance = float((point - middle).abs().max())
        inside = [level for level in range(levels) if distance <= middle * 2**level]
        if inside and spans and spans[-1][0] == inside[0] and spans[-1][2] == start:
            spans[-1] = (inside[0], spans[-1][1], end)  # the ray crossed the plane of a face beside the face
        elif inside:
            spans.append((inside[0], start, end))
    return spans


def composite_by_loop(density, features, index, rays, near=0.0):
    """Composite rays one by one, sample by sample, on dense grids."""
    levels, side = index.shape[:2]
    dense = torch.cat([density[:, None], features], 1)[index.long()].movedim(-1, 1)
    stored = index != 0
    composited, transmittances, depths = [], [], []
    for moved_o, moved_d, offset in zip(*rays, strict=True):
        o, d = moved_o.detach(), moved_d.detach()  # of which camera z does not depend
        total, transmittance, depth = features.new_zeros(features.shape[1]), density.new_ones(()), math.inf
        for level, start, end in spans_by_level(o, d, side, levels, near):
            dt, n = STEP_SIZE * 2**level / float(d.norm()), 0
            while (t := start + (n + float(offset)) * dt) < end:
                n += 1
                point = (moved_o + t * moved_d - (side - 1) / 2) / 2**level + (side - 1) / 2
                x, y, z = point.long().clamp(0, side - 2).tolist()
                if not stored[level, z : z + 2, y : y + 2, x : x + 2].any():
                    continue
                normalised = (point / (side - 1) * 2 - 1).view(1, 1, 1, 1, 3)
                value = F.grid_sample(dense[level][None], normalised, align_corners=True)[0, :, 0, 0, 0]
                alpha = 1 - torch.exp(-F.softplus(value[0]) * INTERVAL)
                if alpha < MIN_ALPHA or transmittance < MIN_TRANSMITTANCE:
                    continue
                total = total + transmittance * alpha * value[1:]
                before, transmittance = float(transmittance.detach()), transmittance * (1 - alpha)
                if before > 0.5 >= transmittance:  # transmittance falls exponentially around the sample
                    depth = t + (math.log(before / 0.5) / math.log(before / float(transmittance.detach())) - 0.5) * dt
        composited.append(total), transmittances.append(transmittance), depths.append(depth)
    return torch.stack(composited), torch.stack(transmittances), torch.tensor(depths, dtype=density.dtype)


def with_gradients(function, density, features, *others):
    """Return the outputs of a compositing function, and the gradients of density and features without row 0, and of
    origins and directions of the rays.
    """
    inputs = [density.clone().requires_grad_(), features.clone().requires_grad_()]
    rays = next(x for x in others if isinstance(x, Rays))
    moved = [x.clone().requires_grad_() for x in rays[:2]]
    outputs = function(*inputs, *(Rays(*moved, rays.offsets) if x is rays else x for x in others))
    g = torch.Generator().manual_seed(1)
    weights = [torch.randn(o.shape, generator=g, dtype=torch.float64).to(o) for o in outputs[:2]]
    sum((o * w).sum() for o, w in zip(outputs[:2], weights, strict=True)).backward()
    return [*(o.detach() for o in outputs), *(x.grad[1:] for x in inputs), *(x.grad for x in moved)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fast", [composite, composite_reference])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("near", [0.0, 3.1])
def test_compositing_equals_a_loop_over_samples(seed, fast, dtype, near):
    density, features, index, rays = scene(seed)
    slow = with_gradients(composite_by_loop, density, features, index, rays, near)
    rays = Rays(*(x.to(dtype) for x in rays))
    inputs = (
        density.to(dtype),
        features.to(dtype),
        index,
        empty_space_distance(cells(index != 0)),
        rays,
        STEP_SIZE,
        INTERVAL,
        near,
    )
    ours = with_gradients(fast, *inputs)
    assert slow[2].isfinite().sum() > 5
    assert slow[3].any()
    for a, b in zip(ours, slow, strict=True):
        assert a.shape == b.shape
        finite = b.isfinite()
        assert torch.equal(finite, a.isfinite())
        difference = (a - b)[finite].abs().max()
        assert difference <= (1e-9 if dtype == torch.float64 else 2e-4) * b[finite].abs().max()


def test_rays_and_features_of_any_memory_layout_are_composited():
    density, features, index, rays = scene(2)
    given = index, empty_space_distance(cells(index != 0))
    rays = Rays(rays.origins, rays.directions[9:10].expand(40, 3), rays.offsets[:1].expand(40))
    copies = Rays(*(x.clone(memory_format=torch.contiguous_format) for x in rays))
    strided = features.T.contiguous().T
    assert not rays.directions.is_contiguous()
    for ours, expected in zip(
        with_gradients(composite, density, strided, *given, rays, STEP_SIZE, INTERVAL),
        with_gradients(composite, density, features, *given, copies, STEP_SIZE, INTERVAL),
        strict=True,
    ):
        torch.testing.assert_close(ours, expected)


def test_a_process_keeps_its_number_of_threads():
    """Starting numba's threads must not raise PyTorch's thread count, or jobs on one machine compete for cores."""
    code = "import torch; torch.set_num_threads(1); from dv.ops.compositing_cpu import set_threads; "
    code += "print(set_threads(), torch.get_num_threads())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]


def test_gradients_do_not_depend_on_the_number_of_threads():
    density, features, index, rays = scene(3, torch.float32)
    inputs = density, features, index, empty_space_distance(cells(index != 0)), rays, STEP_SIZE, INTERVAL
    found = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(with_gradients(composite, *inputs))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(found[0], found[-1], strict=True))


def test_more_samples_than_expected_are_recorded(monkeypatch):
    density, features, index, rays = scene(3)
    inputs = density, features, index, empty_space_distance(cells(index != 0)), rays, STEP_SIZE, INTERVAL
    exact = with_gradients(composite, *inputs)
    monkeypatch.setattr(compositing_cpu._Composite, "room", 1)
    ours = with_gradients(composite, *inputs)
    assert all(torch.equal(a, b) for a, b in zip(ours, exact, strict=True))
    assert compositing_cpu._Composite.room > 1


def test_no_cell_within_the_empty_space_distance_is_occupied():
    occupied = torch.zeros(6, 30, 50, dtype=torch.bool)
    occupied[1, 2, 3] = occupied[5, 20, 25] = True
    both = empty_space_distance(torch.stack([occupied, torch.zeros_like(occupied)]))
    assert (both[1] == 33).all(), "levels do not see each other"
    distance = both[0]
    at = torch.stack(torch.meshgrid(*(torch.arange(n) for n in occupied.shape), indexing="ij"), -1)
    exact = (at[..., None, :] - torch.nonzero(occupied)).abs().amax(-1).amin(-1)
    steps = torch.tensor([0, 1, 2, 3, 5, 9, 17, 33])  # the result is the largest of these that is at most exact
    assert torch.equal(distance.long(), steps[torch.searchsorted(steps, exact, right=True) - 1])
    assert int(exact.max()) > 17


def test_a_ray_that_misses_the_grid_composites_nothing():
    voxels = SparseVoxels(8, 3, 0.0)
    rays = Rays(torch.tensor([[-5.0, 20, 3]]), torch.tensor([[1.0, 0, 0]]), torch.zeros(1))
    t_min, t_max = ray_grid_intersection(rays, 8)
    assert t_max < t_min
    output = voxels.composite(rays, 0.5)
    assert output.transmittance == 1
    assert not output.features.any()
    assert not voxels.hits_vertices(rays, voxels.distance_to_vertices()).any()


def ball(side=17, radius=0.5):
    """Return voxels with a high density inside a ball and almost none outside."""
    voxels = SparseVoxels(side, 2, -5.0)
    at = voxels.positions() / (side - 1) * 2 - 1
    with torch.no_grad():
        voxels.density[1:] = torch.where(at.norm(dim=1) < radius, 8.0, -9.0)
        voxels.features[1:] = at[:, :2]
    return voxels


def random_rays(side):
    g = torch.Generator().manual_seed(0)
    origins = F.normalize(torch.randn(200, 3, generator=g), dim=1) * side * 1.5 + side / 2
    target = (torch.rand(200, 3, generator=g) * 0.6 + 0.2) * side
    return Rays(origins, F.normalize(target - origins, dim=1), torch.rand(200, generator=g))


def test_pruning_removes_empty_vertices_and_changes_no_image():
    voxels, rays = ball(), random_rays(17)
    before = voxels.composite(rays, 0.5)
    kept = voxels.prune()
    assert len(kept) == len(voxels.density) < 17**3 / 2
    after = voxels.composite(rays, 0.5)
    assert (before.features - after.features).abs().max() < 2e-3  # the faint density that was pruned
    assert (before.transmittance - after.transmittance).abs().max() < 2e-3
    at = voxels.positions() / 16 * 2 - 1
    assert torch.allclose(voxels.features[1:], at[:, :2])


def test_refining_keeps_densities_and_features_in_place():
    voxels = ball()
    voxels.prune()
    voxels.refine(33)
    assert voxels.side == 33
    at = voxels.positions() / 32 * 2 - 1
    inside = at.norm(dim=1) < 0.4
    assert torch.allclose(voxels.features[1:][inside], at[inside][:, :2], atol=1e-5)
    assert (voxels.density[1:][inside] > 7).all()
    assert len(voxels.density) < 33**3 / 2
    assert voxels.density[0] == EMPTY_DENSITY


def test_a_saved_state_of_another_size_can_be_loaded():
    voxels = ball()
    voxels.prune()
    voxels.refine(20)
    other = SparseVoxels(2, 2, 0.0)
    other.resize_to_state(voxels.state_dict())
    other.load_state_dict(voxels.state_dict())
    rays = random_rays(20)
    assert torch.equal(other.composite(rays, 0.5).features, voxels.composite(rays, 0.5).features)


@pytest.mark.parametrize("seed", range(3))
def test_features_diffuse_to_stored_neighbours(seed, monkeypatch):
    monkeypatch.setattr("dv.nets.voxels.VERTICES_PER_BATCH", 7)  # several batches
    density, features, index, _ = scene(seed)
    side = index.shape[1]
    voxels = SparseVoxels(side, features.shape[1], 0.0).double()
    voxels.density, voxels.features = torch.nn.Parameter(density), torch.nn.Parameter(features.clone())
    voxels.index = index
    voxels.smooth(0.4)
    expected = features.clone()
    for at in index.nonzero().tolist():
        row = index[tuple(at)]
        for axis, offset in itertools.product(range(3), (-1, 1)):
            neighbour = [*at]
            neighbour[1 + axis] += offset
            if 0 <= neighbour[1 + axis] < side and index[tuple(neighbour)]:
                expected[row] += 0.4 / 6 * (features[index[tuple(neighbour)]] - features[row])
    assert torch.allclose(voxels.features, expected)
    assert not voxels.features[0].any()
    assert torch.allclose(voxels.features.sum(0), features.sum(0)), "the sum is preserved"


@pytest.mark.parametrize("step", [0.5, 1.0])
def test_no_sample_contributes_in_an_empty_cell(step):
    voxels = SparseVoxels(17, 3, -5.0)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        dense = torch.rand(17**3, generator=g) < 0.1
        voxels.density[1:] = torch.where(dense, torch.randn(17**3, generator=g) * 2 + 1, -15.0)
        voxels.features[1:] = torch.randn(17**3, 3, generator=g)
    voxels.update_empty_space()
    assert 0.1 < float((voxels.distance == 0).float().mean()) < 0.9
    ours = voxels.composite(random_rays(17), step)
    voxels.distance.zero_()
    theirs = voxels.composite(random_rays(17), step)
    assert (theirs.transmittance < 0.99).any()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.isfinite(), b.isfinite())
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
