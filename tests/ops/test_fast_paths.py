"""Fast operators equal plain ones for random shapes, forward and backward, in fp32 and bf16."""

import random
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dv.nets.blocks import Layers
from dv.ops.convolution import patches
from dv.ops.convolution.layers import Conv2d, Conv3d, ConvTranspose2d, conv3d
from dv.ops.frustum import FrustumConv, PaddedFrustum
from dv.ops.norm import ViewNorm2d, ViewNorm3d
from dv.ops.padding import replication_pad

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 1e-2}
SEEDS = range(6)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def dtype(request):
    return request.param


def tensor(*shape, dtype=torch.float32, channels_last=True):
    """Return random values that bf16 represents exactly."""
    x = torch.randn(*shape).bfloat16().to(dtype)
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    return x.contiguous(memory_format=layout) if layout and channels_last else x


def compare(fast, slow, inputs, parameters, dtype):
    """Compare outputs and gradients of two functions of inputs and parameters, the slow one in fp32."""
    results = []
    for function, kind in ((fast, dtype), (slow, torch.float32)):
        values = [x.detach().to(kind).requires_grad_() for x in inputs]
        copies = [p.detach().to(kind).requires_grad_() for p in parameters]
        output = function(values, copies)
        if not results:
            weight = torch.randn_like(output.float()).bfloat16()
        (output * weight.to(output.dtype)).sum().backward()
        results.append([output, *(x.grad for x in (*values, *copies))])
    for ours, plain in zip(*results, strict=True):
        assert ours.shape == plain.shape
        error = (ours.float() - plain).square().mean().sqrt()
        assert error <= TOLERANCE[dtype] * plain.square().mean().sqrt().clamp(min=1e-6)


def with_parameters(layer, parameters):
    names = [name for name, _ in layer.named_parameters()]
    return lambda *x: torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), x)


def compare_layers(fast, slow, inputs, dtype):
    parameters = [tensor(*p.shape) / p[0].numel() ** 0.5 for p in fast.parameters()]
    compare(
        lambda x, p: with_parameters(fast, p)(*x),
        lambda x, p: with_parameters(slow, p)(torch.cat(x, 1)),
        inputs,
        parameters,
        dtype,
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("bands", [2**21, 300])
def test_conv2d(seed, dtype, bands, monkeypatch):
    monkeypatch.setattr(patches, "BAND_VALUES", bands)
    draw = random.Random(seed)
    torch.manual_seed(seed)
    side, stride = draw.choice([(3, 1), (4, 2), (4, 1)])
    a, b = draw.choice([3, 16, 40, 64]), draw.choice([3, 16, 20, 64])
    height, width = draw.choice([2, 4, 10, 16]), draw.choice([4, 6, 16])
    inputs = [tensor(draw.choice([1, 2]), a, height, width) for _ in range(draw.choice([1, 2]))]
    arguments = {"stride": stride, "bias": draw.random() < 0.5}
    fast = Conv2d(a * len(inputs), b, side, **arguments)
    slow = nn.Conv2d(a * len(inputs), b, side, padding=1, padding_mode="reflect", **arguments)
    inputs = [tensor(len(inputs[0]), *x.shape[1:]) for x in inputs]
    compare_layers(fast, slow, inputs, dtype)


@pytest.mark.parametrize("seed", SEEDS)
def test_conv_transpose2d(seed, dtype):
    draw = random.Random(seed)
    torch.manual_seed(seed)
    a, b, bias = draw.choice([4, 16, 64]), draw.choice([3, 16]), draw.random() < 0.5
    x = tensor(draw.choice([1, 2]), a, draw.choice([1, 2, 8]), draw.choice([1, 4, 8]))
    compare_layers(ConvTranspose2d(a, b, bias=bias), nn.ConvTranspose2d(a, b, 4, 2, 1, bias=bias), [x], dtype)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("views", [1, 2])
def test_conv3d(seed, views, dtype):
    draw = random.Random(seed)
    torch.manual_seed(seed)
    side, stride = draw.choice([(3, 1), (3, 1), (4, 2)])
    a, b, bias = draw.choice([3, 20, 64]), draw.choice([1, 8, 40]), draw.random() < 0.5
    depth, height = draw.choice([2, 4, 6]), draw.choice([2, 4, 8])
    inputs = [tensor(views, a, depth, height, 4) for _ in range(draw.choice([1, 2]))]
    fast = Conv3d(a * len(inputs), b, side, stride=stride, bias=bias)
    slow = nn.Conv3d(a * len(inputs), b, side, stride=stride, padding=1, padding_mode="replicate", bias=bias)
    compare_layers(fast, slow, inputs, dtype)


@pytest.mark.parametrize("depth", [False, True])
@pytest.mark.parametrize("shape", [(1, 2, 3, 5), (2, 1, 4, 4), (1, 2, 4, 2)])
def test_replication_pad(depth, shape, dtype):
    n, d, h, w = shape
    inputs = [tensor(n, 3, d, h, w), tensor(n, 1, d, h, w)]
    padding = (1, 1, 1, 1, int(depth), int(depth))
    compare(
        # the backward pass overwrites its gradient; this product allocates a new one, as a convolution does
        lambda x, _: replication_pad(*x, depth=depth) * 1,
        lambda x, _: F.pad(torch.cat(x, 1), padding, mode="replicate"),
        inputs,
        [],
        dtype,
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("depth_last", [False, True])
def test_frustum_convolution(seed, depth_last, dtype):
    draw = random.Random(seed)
    torch.manual_seed(seed)
    features, out, views = draw.choice([4, 16, 64]), draw.choice([1, 4]), draw.choice([1, 2])
    depth, side = draw.choice([1, 2, 8]), draw.choice([2, 4, 6])
    frustum, coordinates = tensor(views, features, depth, side, side), tensor(depth)
    layer = FrustumConv(features, out, depth_last=depth_last, bias=draw.random() < 0.5)
    parameters = [tensor(*p.shape) / 8 for p in layer.parameters()]

    def fast(x, p):
        padded = F.pad(x[0], (1, 1, 1, 1, 0, 0), mode="replicate").contiguous(memory_format=torch.channels_last_3d)
        return with_parameters(layer, p)(padded, coordinates.to(x[0].dtype))

    def slow(x, p):
        channel = coordinates[:, None, None].expand(views, 1, depth, side, side)
        joined = torch.cat([x[0], channel] if depth_last else [channel, x[0]], 1)
        return F.conv3d(F.pad(joined, (1,) * 6, mode="replicate"), *p)

    compare(fast, slow, [frustum], parameters, dtype)


@pytest.mark.parametrize("seed", SEEDS)
def test_convolution_and_weighted_sum_of_a_frustum(seed, dtype):
    draw = random.Random(seed)
    torch.manual_seed(seed)
    views, features, depth, side = draw.choice([1, 2]), draw.choice([1, 16]), draw.choice([1, 32, 128]), 5
    frustum, kernel = tensor(views, features, depth, side + 2, side + 2), tensor(1, features, 1, 3, 3) / 9
    offset = tensor(views, 1, depth, side, side)

    def fast(x, p):
        padded = PaddedFrustum(x[0])
        return padded.weighted_sum(conv3d(padded.convolved, p[0]).tanh() + x[1])

    def slow(x, p):
        return (x[0][..., 1:-1, 1:-1] * (F.conv3d(x[0], p[0]).tanh() + x[1])).sum(2)

    compare(fast, slow, [frustum, offset], [kernel], dtype)


@pytest.mark.parametrize("channels", [4, 32])
@pytest.mark.parametrize("activation", [nn.ReLU, lambda **k: nn.LeakyReLU(0.2, **k)])
@pytest.mark.parametrize("threshold", [0, 10**9], ids=["recomputed", "stored"])
def test_fused_norm_activation_and_dropout(channels, activation, threshold, monkeypatch):
    monkeypatch.setattr("dv.ops.norm.MIN_RECOMPUTED_VALUES", threshold)
    torch.manual_seed(channels)
    norm, drawn = ViewNorm2d(channels), []
    layers = [Conv2d(3, channels, 3), norm, activation(inplace=True), nn.Dropout2d(0.4), Conv2d(channels, 2, 3)]
    x = tensor(2, 3, 6, 8)
    results = []

    def one_by_one(y):
        for layer in layers:
            y = layer(y)
        return y

    for function in (Layers(*layers), one_by_one):
        torch.manual_seed(1)
        for layer in layers:
            layer.zero_grad()
        norm.reset_running_stats()
        values = x.clone().requires_grad_()
        output = function(values)
        output.square().sum().backward()
        drawn.append(torch.rand(1))
        gradients = [p.grad.clone() for layer in layers for p in layer.parameters()]
        results.append([output.detach(), values.grad, norm.running_mean.clone(), norm.running_var.clone(), *gradients])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(*drawn)  # both drew the same random numbers


@pytest.mark.parametrize(("threshold", "stored"), [(0, False), (10**9, True)])
def test_a_large_activation_is_not_stored_for_the_backward_pass(threshold, stored, monkeypatch):
    monkeypatch.setattr("dv.ops.norm.MIN_RECOMPUTED_VALUES", threshold)
    norm, activated = ViewNorm2d(32), []
    norm.register_forward_hook(lambda _module, _inputs, y: activated.append(weakref.ref(y)))
    output = Layers(Conv2d(3, 32, 3), norm, nn.ReLU(inplace=True), Conv2d(32, 32, 3))(tensor(2, 3, 8, 8))
    assert output.requires_grad
    assert (activated[0]() is not None) == stored


def test_an_activation_modified_in_place_is_stored(monkeypatch):
    monkeypatch.setattr("dv.ops.norm.MIN_RECOMPUTED_VALUES", 0)
    norm, layer = ViewNorm2d(32), Conv2d(32, 4, 3)
    x = tensor(2, 32, 6, 6)
    y = norm(x.requires_grad_())
    y.mul_(2)
    layer(y).square().sum().backward()
    fast = layer.weight.grad.clone()
    layer.zero_grad()
    layer(2 * norm(x).detach()).square().sum().backward()
    torch.testing.assert_close(fast, layer.weight.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("fast", "slow"), [(ViewNorm2d, nn.BatchNorm2d), (ViewNorm3d, nn.BatchNorm3d)])
@pytest.mark.parametrize("channels", [1, 4, 6, 32])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("threshold", [0, 10**9])
def test_norm_of_each_view(fast, slow, channels, training, threshold, monkeypatch):
    monkeypatch.setattr("dv.ops.norm.MIN_RECOMPUTED_VALUES", threshold)
    torch.manual_seed(channels)
    size = (6, 4) if fast is ViewNorm2d else (3, 4, 6)
    ours, plain = fast(channels), slow(channels)
    statistics = {"running_mean": torch.randn(channels), "running_var": torch.rand(channels) + 0.5}
    for layer in (ours, plain):
        layer.load_state_dict(statistics, strict=False)
        layer.train(training)
    parameters = [tensor(channels), tensor(channels)]
    compare(
        lambda x, p: with_parameters(ours, p)(x[0]),
        lambda x, p: torch.cat([with_parameters(plain, p)(view) for view in x[0].split(1)]),
        [tensor(3, channels, *size) + 2],
        parameters,
        torch.float32,
    )
    for name, value in plain.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), value)
