"""Convolutions laid out for speed on CPUs; elsewhere PyTorch's own.

oneDNN convolves at the speed of the machine going forwards, but (PyTorch 2.13) spends three to thirty times as long
on weight gradients, and on layers with more weights than pixels it spends its time rearranging the weights. Both are
matrix products of patches, which BLAS does at full speed. All tensors are channels-last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dv.ops.norm import follow
from dv.ops.padding import replicate

BAND_VALUES = 2**21  # patches gathered at a time, so that they stay in the cache
FEWEST_CHANNELS = 16  # below, gathering patches costs more than it saves
GRADIENT_PATCH = 320  # longest patch of the output's gradient for which both gradients are made from such patches


class Conv2d(nn.Conv2d):
    """Convolution of square kernel with reflection padding; several inputs are concatenated."""

    def __init__(self, a: int, b: int, side: int, *, stride: int = 1, bias: bool = False) -> None:
        super().__init__(a, b, side, stride=stride, padding=1, padding_mode="reflect", bias=bias)

    def forward(self, *x: Tensor) -> Tensor:
        """Convolve ``[N, a, H, W]``."""
        joined = x[0] if len(x) == 1 else torch.cat(x, 1)
        if not _by_hand(joined):
            return super().forward(joined)
        tensors = _in_precision(joined, self.weight, self.bias)
        result: Tensor = _Convolution.apply(*tensors, self.stride[0], True)  # type: ignore[no-untyped-call]
        return result


class Conv3d(nn.Conv3d):
    """Convolution of cubic kernel with replication padding; several inputs are concatenated."""

    def __init__(self, a: int, b: int, side: int = 3, *, stride: int = 1, bias: bool = False) -> None:
        super().__init__(a, b, side, stride=stride, padding=1, padding_mode="replicate", bias=bias)

    def forward(self, *x: Tensor) -> Tensor:
        """Convolve ``[N, a, D, H, W]``."""
        return convolve(replicate(*x), self.weight, self.bias, self.stride[0])


class Doubling2d(nn.ConvTranspose2d):
    """Transposed convolution of 4² kernel and stride 2."""

    def __init__(self, a: int, b: int, *, bias: bool = False) -> None:
        super().__init__(a, b, 4, stride=2, padding=1, bias=bias)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: ARG002
        """Convolve ``[N, a, H, W]`` to ``[N, b, 2H, 2W]``."""
        if not _by_hand(x):
            return super().forward(x)
        result: Tensor = _Doubling.apply(*_in_precision(x, self.weight, self.bias))  # type: ignore[no-untyped-call]
        return result


def convolve(padded: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1) -> Tensor:
    """Convolution of ``[N, C, D, H, W]`` which adds no padding."""
    if not _by_hand(padded):
        return functional.conv3d(padded, weight, bias, stride)
    result: Tensor = _Convolution.apply(*_in_precision(padded, weight, bias), stride, False)  # type: ignore[no-untyped-call]
    return result


def _by_hand(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def _in_precision(*tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors in what autocast, if enabled, has convolutions computed in; inside them it is off."""
    if not torch.is_autocast_enabled("cpu"):
        return list(tensors)
    return [None if t is None else t.to(torch.get_autocast_dtype("cpu")) for t in tensors]


def _rows(x: Tensor) -> Tensor:
    """``[N, C, *size]`` as ``[N, *size, C]``, copied only if it is not channels-last."""
    return x.movedim(1, -1).contiguous()


def _empty(like: Tensor, channels: int, size: Sequence[int]) -> Tensor:
    """Room for a channels-last result; what a custom function returns must not be a view to be changed in place."""
    layout = torch.channels_last if len(size) == 2 else torch.channels_last_3d
    shape = (len(like), channels, *size)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)


def _matrix(weight: Tensor) -> Tensor:
    """``[A, B, *kernel]`` as ``[A, K·B]``, a view if it is channels-last."""
    return weight.movedim(1, -1).reshape(len(weight), -1)


def _kernel(matrix: Tensor, like: Tensor) -> Tensor:
    """Inverse of :func:`_matrix`."""
    return matrix.view(len(like), *like.shape[2:], -1).movedim(-1, 1)


def _patches(rows: Tensor, kernel: tuple[int, ...], stride: int = 1) -> Tensor:
    """All patches of ``[N, *size, C]``, as ``[positions, K·C]``."""
    axes = len(kernel)
    channels = rows.shape[-1]
    for axis, side in enumerate(kernel):
        rows = rows.unfold(axis + 1, side, stride)  # [N, *positions, C, *kernel] in the end
    rows = rows.movedim(axes + 1, -1)
    return rows.reshape(-1, math.prod(kernel) * channels)


def _spread(patches: Tensor, shape: tuple[int, ...], kernel: tuple[int, ...], stride: int) -> Tensor:
    """Transpose of :func:`_patches`: patches added up where they came from, ``[N, *size, C]``."""
    n, *size, channels = shape
    positions = [(whole - side) // stride + 1 for whole, side in zip(size, kernel, strict=True)]
    patches = patches.view(n, *positions, -1, channels)
    rows = patches.new_zeros(shape)
    for i, offsets in enumerate(product(*map(range, kernel))):
        at = [slice(o, o + stride * (p - 1) + 1, stride) for o, p in zip(offsets, positions, strict=True)]
        rows[(slice(None), *at)] += patches[..., i, :]
    return rows


def _bands(length: int, values: int) -> list[slice]:
    """``range(length)`` cut so that a band of ``values`` each stays within :data:`BAND_VALUES`."""
    band = max(1, BAND_VALUES // values)
    return [slice(start, min(start + band, length)) for start in range(0, length, band)]


def _weight_gradient(rows: Tensor, gradient: Tensor, kernel: tuple[int, ...], stride: int) -> Tensor:
    """Σ gradientᵀ·patch ``[A, K·C]`` over all patches of ``[N, *size, C]`` and ``[N, *positions, A]``."""
    length = math.prod(kernel) * rows.shape[-1]
    if gradient[..., 0].numel() * length <= BAND_VALUES:
        return gradient.reshape(-1, gradient.shape[-1]).T @ _patches(rows, kernel, stride)
    total = rows.new_zeros(length, gradient.shape[-1])
    for image, of_image in zip(rows, gradient, strict=True):
        for band in _bands(len(of_image), of_image[0, ..., 0].numel() * length):
            seen = image[None, band.start * stride : (band.stop - 1) * stride + kernel[0]]
            total.addmm_(_patches(seen, kernel, stride).T, of_image[band].reshape(-1, gradient.shape[-1]))
    return total.T.contiguous()


def _both_gradients(x: Tensor, weight: Tensor, gradient: Tensor, reflect: bool) -> tuple[Tensor, Tensor]:
    """Of input ``[N, C, *size]`` (as it was padded) and weight, at stride 1, from patches of the gradient."""
    kernel, axes = tuple(weight.shape[2:]), range(2, weight.dim())
    rims = [rim for side in reversed(kernel) for rim in (side - 1, side - 1)]
    flipped = weight.flip(*axes).permute(*axes, 0, 1).reshape(-1, weight.shape[1])
    of_weight = torch.zeros_like(flipped)
    of_x = _empty(x, x.shape[1], [side + 2 * reflect for side in x.shape[2:]])
    for image, of_image, of_output in zip(torch.split(x, 1), _rows(of_x), _rows(gradient), strict=True):
        rows = _rows(_reflected(image) if reflect else image)[0]
        padded = functional.pad(of_output, (0, 0, *rims))
        for band in _bands(len(rows), rows[0, ..., 0].numel() * len(flipped)):
            patches = _patches(padded[None, band.start : band.stop + kernel[0] - 1], kernel)
            torch.mm(patches, flipped, out=of_image[band].view(-1, rows.shape[-1]))
            of_weight.addmm_(patches.T, rows[band].reshape(-1, rows.shape[-1]))
        del rows, padded, patches  # before those of the next image
    unflipped = of_weight.view(*kernel, *weight.shape[:2]).permute(-2, -1, *range(len(kernel)))
    return of_x, unflipped.flip(*axes)


def _keep(ctx: Any, x: Tensor, weight: Tensor) -> None:
    """For the backward pass; the input (unpadded) only if it cannot be made anew from what the norm before it keeps."""
    recipe = getattr(x, "recipe", None)
    if recipe and recipe.version != x._version:
        recipe = None
    ctx.save_for_backward(weight, *(recipe.tensors if recipe else (x,)))
    ctx.recipe = recipe and recipe._replace(tensors=())


def _kept(ctx: Any) -> tuple[Tensor, Tensor]:
    weight, *tensors = ctx.saved_tensors
    return follow(ctx.recipe._replace(tensors=tensors)) if ctx.recipe else tensors[0], weight


class _Convolution(torch.autograd.Function):
    @staticmethod
    @torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, reflect: bool) -> Tensor:
        _keep(ctx, x, weight)
        ctx.stride, ctx.reflect = stride, reflect
        if reflect:
            x = _reflected(x)
        kernel = tuple(weight.shape[2:])
        positions = [(whole - side) // stride + 1 for whole, side in zip(x.shape[2:], kernel, strict=True)]
        ctx.as_matrix = len(positions) == 2 and len(x) * math.prod(positions) <= x.shape[1]
        if not ctx.as_matrix:
            return _onednn(x, weight, bias, stride)
        result = _empty(x, len(weight), positions)
        rows = torch.mm(_patches(_rows(x), kernel, stride), _matrix(weight).T, out=_rows(result).view(-1, len(weight)))
        if bias is not None:
            rows += bias
        return result

    @staticmethod
    @once_differentiable
    @torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = _kept(ctx)
        of_x, of_weight, of_bias = _convolution_gradients(ctx, x, weight, gradient)
        if ctx.reflect and of_x is not None:
            of_x = _fold_reflection(of_x)
        return of_x, of_weight, of_bias, None, None


def _reflected(image: Tensor) -> Tensor:
    return functional.pad(image, (1,) * 4, mode="reflect")


def _fold_reflection(padded: Tensor) -> Tensor:
    """The gradient of what was padded by reflection, in the memory of the gradient of the padded."""
    for axis in (2, 3):
        padded.select(axis, 2).add_(padded.select(axis, 0))
        padded.select(axis, -3).add_(padded.select(axis, -1))
        padded = padded.narrow(axis, 1, padded.shape[axis] - 2)
    return padded


def _convolution_gradients(
    ctx: Any, x: Tensor, weight: Tensor, gradient: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    stride, kernel, channels = ctx.stride, tuple(weight.shape[2:]), x.shape[1]
    of_x, of_weight, of_bias = None, None, None
    rows = _rows(gradient)
    gradient = rows.movedim(-1, 1)
    if ctx.needs_input_grad[2]:
        of_bias = rows.flatten(0, -2).sum(0)
    short = math.prod(kernel) * len(weight) <= GRADIENT_PATCH and channels >= 2 * max(len(weight), FEWEST_CHANNELS)
    if short and stride == 1 and not ctx.as_matrix and all(ctx.needs_input_grad[:2]):
        of_x, of_weight = _both_gradients(x, weight, gradient, ctx.reflect)
        return of_x, of_weight, of_bias
    if ctx.reflect:
        x = _reflected(x)
    if ctx.needs_input_grad[0]:
        if ctx.as_matrix:
            patches = rows.flatten(0, -2) @ _matrix(weight)
            of_x = _spread(patches, (len(x), *x.shape[2:], channels), kernel, stride).movedim(-1, 1)
        else:
            of_x = _onednn_gradient(gradient, x, weight, stride, 0)
    if ctx.needs_input_grad[1]:
        if x.dim() == 4 and channels >= FEWEST_CHANNELS:
            of_weight = _kernel(_weight_gradient(_rows(x), rows, kernel, stride), weight)
        elif stride == 1 and min(weight.shape[:2]) >= 2 * FEWEST_CHANNELS:
            # in 3D with many channels oneDNN's is twice as fast in the plain layout
            of_weight = _onednn_gradient(gradient.contiguous(), x.contiguous(), weight.contiguous(), stride, 1)
        else:
            of_weight = _onednn_gradient(gradient, x, weight, stride, 1)
    return of_x, of_weight, of_bias


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    if x.dim() == 4:
        return torch.conv2d(x, weight, bias, stride)
    if not _in_slabs(x, weight):
        return torch.conv3d(x, weight, bias, stride)
    slabs = torch.conv3d(_slabs(x, weight), weight, bias)
    return slabs.movedim(1, -1).flatten(0, 1)[None].movedim(-1, 1)


def _onednn_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: int, of: int) -> Tensor:
    """Gradient of the input (``of=0``) or the weight (1)."""
    axes, shape = x.dim() - 2, x.shape
    in_slabs = _in_slabs(x, weight)
    if in_slabs:
        x = _slabs(x, weight)
        gradient = gradient.movedim(1, -1).reshape(2, -1, *gradient.shape[3:], len(weight)).movedim(-1, 1)
    result: Tensor = torch.ops.aten.convolution_backward(
        gradient,
        x,
        weight,
        None,
        [stride] * axes,
        [0] * axes,
        [1] * axes,
        False,
        [0] * axes,
        1,
        [of == 0, of == 1, False],
    )[of]
    if in_slabs and of == 0:
        whole = _empty(x[:1], shape[1], shape[2:])
        overlap = weight.shape[2] - 1
        half = x.shape[2] - overlap
        whole[:, :, : half + overlap] = result[:1]
        whole[:, :, half + overlap :] = result[1:, :, overlap:]
        whole[:, :, half : half + overlap] += result[1:, :, :overlap]
        return whole
    return result


def _in_slabs(x: Tensor, weight: Tensor) -> bool:
    """Whether PyTorch would not send a small volume, alone, to oneDNN: two slabs of it are a batch, and go there."""
    if x.dim() == 4 or len(x) > 1 or weight.shape[-1] > 3:
        return False
    return x.shape[1:4].numel() <= 20480 and (x.shape[2] - weight.shape[2] + 1) % 2 == 0


def _slabs(x: Tensor, weight: Tensor) -> Tensor:
    """A volume ``[1, C, D, …]`` as its lower and upper half ``[2, C, …]``, with what the kernel sees of the other."""
    overlap = weight.shape[2] - 1
    half = (x.shape[2] - overlap) // 2
    return torch.cat([x[:, :, : half + overlap], x[:, :, half:]])


class _Doubling(torch.autograd.Function):
    @staticmethod
    @torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        _keep(ctx, x, weight)
        n, channels, h, w = x.shape
        ctx.as_matrix = n * h * w <= channels
        if not ctx.as_matrix:
            return torch.conv_transpose2d(x, weight, bias, stride=2, padding=1)
        patches = _rows(x).view(-1, channels) @ _matrix(weight)
        rimmed = _spread(patches, (n, 2 * h + 2, 2 * w + 2, weight.shape[1]), (4, 4), 2)
        result = _empty(x, weight.shape[1], (2 * h, 2 * w))
        rows = _rows(result).copy_(rimmed[:, 1:-1, 1:-1])
        if bias is not None:
            rows += bias
        return result

    @staticmethod
    @once_differentiable
    @torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = _kept(ctx)
        of_x, of_weight, of_bias = None, None, None
        rows = functional.pad(_rows(gradient), (0, 0, 1, 1, 1, 1))
        if ctx.needs_input_grad[0]:
            if ctx.as_matrix:
                of_rows = _patches(rows, (4, 4), 2) @ _matrix(weight).T
                of_x = of_rows.view(len(x), *x.shape[2:], -1).movedim(-1, 1)
            else:
                of_x = torch.conv2d(rows.movedim(-1, 1), weight, stride=2)
        if ctx.needs_input_grad[1]:
            of_weight = _kernel(_weight_gradient(rows, _rows(x), (4, 4), 2), weight)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_x, of_weight, of_bias
