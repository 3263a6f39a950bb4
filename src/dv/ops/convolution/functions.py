"""Autograd functions of convolutions: matrix products of patches, or oneDNN, whichever is faster for the sizes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dv.ops.convolution.patches import (
    bands,
    col2im,
    empty_channels_last,
    from_weight_matrix,
    im2col,
    to_rows,
    weight_gradient,
    weight_matrix,
)

MIN_CHANNELS = 16  # below it, gathering patches costs more than it saves
MAX_GRADIENT_PATCH = 320  # longest patch of the output's gradient from which both gradients are computed


def is_supported(x: Tensor) -> bool:
    """Whether the functions of this module apply; PyTorch's are used for all other tensors."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, *, reflect: bool = False) -> Tensor:
    """Convolve an image or a volume.

    Args:
        x: ``[N, C, *size]``, channels-last, for which :func:`is_supported` holds.
        weight: ``[A, C, *kernel]``.
        bias: ``[A]``.
        stride: step of the kernel along all axes.
        reflect: whether to pad an image by reflection first, one pixel on each side.

    Returns:
        ``[N, A, *positions]``, channels-last.
    """
    tensors = _autocast(x, weight, bias)
    result: Tensor = _Convolution.apply(*tensors, stride, reflect)  # type: ignore[no-untyped-call]
    return result


def transposed_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve an image ``[N, C, H, W]`` with the transpose of a 4² kernel of stride 2 and padding 1.

    Args:
        x: channels-last, for which :func:`is_supported` holds.
        weight: ``[C, A, 4, 4]``.
        bias: ``[A]``.

    Returns:
        ``[N, A, 2H, 2W]``, channels-last.
    """
    result: Tensor = _TransposedConvolution.apply(*_autocast(x, weight, bias))  # type: ignore[no-untyped-call]
    return result


def _autocast(*tensors: Tensor | None) -> list[Tensor | None]:
    """Cast tensors to the autocast type, if autocast is enabled; the autograd functions disable it."""
    if not torch.is_autocast_enabled("cpu"):
        return list(tensors)
    return [None if t is None else t.to(torch.get_autocast_dtype("cpu")) for t in tensors]


def _both_gradients(x: Tensor, weight: Tensor, grad_output: Tensor, reflect: bool) -> tuple[Tensor, Tensor]:
    """Gradients of the (padded) input and of the weight at stride 1, from patches of the output's gradient."""
    kernel, axes = tuple(weight.shape[2:]), range(2, weight.dim())
    padding = [width for side in reversed(kernel) for width in (side - 1, side - 1)]
    flipped = weight.flip(*axes).permute(*axes, 0, 1).reshape(-1, weight.shape[1])
    grad_weight = torch.zeros_like(flipped)
    grad_x = empty_channels_last(x, x.shape[1], [side + 2 * reflect for side in x.shape[2:]])
    for image, grad_image, grad_rows in zip(torch.split(x, 1), to_rows(grad_x), to_rows(grad_output), strict=True):
        rows = to_rows(_reflection_pad(image) if reflect else image)[0]
        padded = functional.pad(grad_rows, (0, 0, *padding))
        for band in bands(len(rows), rows[0, ..., 0].numel() * len(flipped)):
            patches = im2col(padded[None, band.start : band.stop + kernel[0] - 1], kernel)
            torch.mm(patches, flipped, out=grad_image[band].view(-1, rows.shape[-1]))
            grad_weight.addmm_(patches.T, rows[band].reshape(-1, rows.shape[-1]))
        del rows, padded, patches  # before the next image's are allocated
    unflipped = grad_weight.view(*kernel, *weight.shape[:2]).permute(-2, -1, *range(len(kernel)))
    return grad_x, unflipped.flip(*axes)


def _save_for_backward(ctx: Any, x: Tensor, weight: Tensor) -> None:
    """Save weight and (unpadded) input; the latter only if the norm in front cannot recompute it from its own input."""
    recomputation = getattr(x, "recomputation", None)
    if recomputation and recomputation.version != x._version:
        recomputation = None
    ctx.save_for_backward(weight, *(recomputation.tensors if recomputation else (x,)))
    ctx.recomputation = recomputation and recomputation._replace(tensors=())


def _saved(ctx: Any) -> tuple[Tensor, Tensor]:
    """Input and weight as saved by :func:`_save_for_backward`."""
    weight, *tensors = ctx.saved_tensors
    return ctx.recomputation._replace(tensors=tensors).activation() if ctx.recomputation else tensors[0], weight


class _Convolution(torch.autograd.Function):
    @staticmethod
    @torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, reflect: bool) -> Tensor:
        _save_for_backward(ctx, x, weight)
        ctx.stride, ctx.reflect = stride, reflect
        if reflect:
            x = _reflection_pad(x)
        kernel = tuple(weight.shape[2:])
        positions = [(whole - side) // stride + 1 for whole, side in zip(x.shape[2:], kernel, strict=True)]
        ctx.as_matrix = len(positions) == 2 and len(x) * math.prod(positions) <= x.shape[1]
        if not ctx.as_matrix:
            return _onednn(x, weight, bias, stride)
        result = empty_channels_last(x, len(weight), positions)
        rows = torch.mm(
            im2col(to_rows(x), kernel, stride), weight_matrix(weight).T, out=to_rows(result).view(-1, len(weight))
        )
        if bias is not None:
            rows += bias
        return result

    @staticmethod
    @once_differentiable
    @torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = _saved(ctx)
        grad_x, grad_weight, grad_bias = _convolution_gradients(ctx, x, weight, grad_output)
        if ctx.reflect and grad_x is not None:
            grad_x = _fold_reflection(grad_x)
        return grad_x, grad_weight, grad_bias, None, None


def _reflection_pad(image: Tensor) -> Tensor:
    return functional.pad(image, (1,) * 4, mode="reflect")


def _fold_reflection(padded: Tensor) -> Tensor:
    """Return the gradient before reflection padding, given the gradient after it, in the same memory."""
    for axis in (2, 3):
        padded.select(axis, 2).add_(padded.select(axis, 0))
        padded.select(axis, -3).add_(padded.select(axis, -1))
        padded = padded.narrow(axis, 1, padded.shape[axis] - 2)
    return padded


def _convolution_gradients(
    ctx: Any, x: Tensor, weight: Tensor, grad_output: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    stride, kernel, channels = ctx.stride, tuple(weight.shape[2:]), x.shape[1]
    grad_x, grad_weight, grad_bias = None, None, None
    rows = to_rows(grad_output)
    grad_output = rows.movedim(-1, 1)
    if ctx.needs_input_grad[2]:
        grad_bias = rows.flatten(0, -2).sum(0)
    short = math.prod(kernel) * len(weight) <= MAX_GRADIENT_PATCH and channels >= 2 * max(len(weight), MIN_CHANNELS)
    if short and stride == 1 and not ctx.as_matrix and all(ctx.needs_input_grad[:2]):
        grad_x, grad_weight = _both_gradients(x, weight, grad_output, ctx.reflect)
        return grad_x, grad_weight, grad_bias
    if ctx.reflect:
        x = _reflection_pad(x)
    if ctx.needs_input_grad[0]:
        if ctx.as_matrix:
            patches = rows.flatten(0, -2) @ weight_matrix(weight)
            grad_x = col2im(patches, (len(x), *x.shape[2:], channels), kernel, stride).movedim(-1, 1)
        else:
            grad_x = _onednn_gradient(grad_output, x, weight, stride, 0)
    if ctx.needs_input_grad[1]:
        if x.dim() == 4 and channels >= MIN_CHANNELS:
            grad_weight = from_weight_matrix(weight_gradient(to_rows(x), rows, kernel, stride), weight)
        elif stride == 1 and min(weight.shape[:2]) >= 2 * MIN_CHANNELS:
            # with many channels oneDNN's 3D weight gradient is twice as fast in the contiguous layout
            grad_weight = _onednn_gradient(grad_output.contiguous(), x.contiguous(), weight.contiguous(), stride, 1)
        else:
            grad_weight = _onednn_gradient(grad_output, x, weight, stride, 1)
    return grad_x, grad_weight, grad_bias


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    if x.dim() == 4:
        return torch.conv2d(x, weight, bias, stride)
    if not _in_slabs(x, weight):
        return torch.conv3d(x, weight, bias, stride)
    slabs = torch.conv3d(_slabs(x, weight), weight, bias)
    return slabs.movedim(1, -1).flatten(0, 1)[None].movedim(-1, 1)


def _onednn_gradient(grad_output: Tensor, x: Tensor, weight: Tensor, stride: int, argument: int) -> Tensor:
    """Gradient of the input (``argument=0``) or of the weight (``argument=1``)."""
    axes, shape = x.dim() - 2, x.shape
    in_slabs = _in_slabs(x, weight)
    if in_slabs:
        x = _slabs(x, weight)
        grad_output = grad_output.movedim(1, -1).reshape(2, -1, *grad_output.shape[3:], len(weight)).movedim(-1, 1)
    result: Tensor = torch.ops.aten.convolution_backward(
        grad_output,
        x,
        weight,
        None,
        [stride] * axes,
        [0] * axes,
        [1] * axes,
        False,
        [0] * axes,
        1,
        [argument == 0, argument == 1, False],
    )[argument]
    if in_slabs and argument == 0:
        whole = empty_channels_last(x[:1], shape[1], shape[2:])
        overlap = weight.shape[2] - 1
        half = x.shape[2] - overlap
        whole[:, :, : half + overlap] = result[:1]
        whole[:, :, half + overlap :] = result[1:, :, overlap:]
        whole[:, :, half : half + overlap] += result[1:, :, :overlap]
        return whole
    return result


def _in_slabs(x: Tensor, weight: Tensor) -> bool:
    """Whether to split a volume into two slabs: PyTorch does not pass a small volume to oneDNN unless it is a batch."""
    if x.dim() == 4 or len(x) > 1 or weight.shape[-1] > 3:
        return False
    return x.shape[1:4].numel() <= 20480 and (x.shape[2] - weight.shape[2] + 1) % 2 == 0


def _slabs(x: Tensor, weight: Tensor) -> Tensor:
    """Split ``[1, C, D, …]`` into two halves along depth ``[2, C, …]``, which overlap by what the kernel needs."""
    overlap = weight.shape[2] - 1
    half = (x.shape[2] - overlap) // 2
    return torch.cat([x[:, :, : half + overlap], x[:, :, half:]])


class _TransposedConvolution(torch.autograd.Function):
    @staticmethod
    @torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        _save_for_backward(ctx, x, weight)
        n, channels, h, w = x.shape
        ctx.as_matrix = n * h * w <= channels
        if not ctx.as_matrix:
            return torch.conv_transpose2d(x, weight, bias, stride=2, padding=1)
        patches = to_rows(x).view(-1, channels) @ weight_matrix(weight)
        padded = col2im(patches, (n, 2 * h + 2, 2 * w + 2, weight.shape[1]), (4, 4), 2)
        result = empty_channels_last(x, weight.shape[1], (2 * h, 2 * w))
        rows = to_rows(result).copy_(padded[:, 1:-1, 1:-1])
        if bias is not None:
            rows += bias
        return result

    @staticmethod
    @once_differentiable
    @torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = _saved(ctx)
        grad_x, grad_weight, grad_bias = None, None, None
        rows = functional.pad(to_rows(grad_output), (0, 0, 1, 1, 1, 1))
        if ctx.needs_input_grad[0]:
            if ctx.as_matrix:
                grad_rows = im2col(rows, (4, 4), 2) @ weight_matrix(weight).T
                grad_x = grad_rows.view(len(x), *x.shape[2:], -1).movedim(-1, 1)
            else:
                grad_x = torch.conv2d(rows.movedim(-1, 1), weight, stride=2)
        if ctx.needs_input_grad[1]:
            grad_weight = from_weight_matrix(weight_gradient(rows, to_rows(x), (4, 4), 2), weight)
        if ctx.needs_input_grad[2]:
            grad_bias = grad_output.sum((0, 2, 3))
        return grad_x, grad_weight, grad_bias
