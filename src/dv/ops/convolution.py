"""Convolutions that are fast on CPUs; on other devices they are PyTorch's own.

oneDNN's forward convolutions run at the machine's full speed, but (in PyTorch 2.13) its weight gradients take three to
thirty times as long, and layers with more weights than pixels spend their time on reordering weights. Here both are
matrix products of patches (im2col), which BLAS computes at full speed. All tensors are channels-last.

This is one file of over 300 lines because all layers share the same two autograd functions and their helpers.
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

from dv.ops.padding import replication_pad

BAND_VALUES = 2**21  # values gathered into patches at a time, so that they stay in the cache
MIN_CHANNELS = 16  # below it, gathering patches costs more than it saves
MAX_GRADIENT_PATCH = 320  # longest patch of the output's gradient from which both gradients are computed


class Conv2d(nn.Conv2d):
    """2D convolution with a square kernel and reflection padding by one pixel; it concatenates several inputs.

    Args:
        in_channels: sum of the inputs' channels.
        out_channels: channels of the output.
        kernel_size: side of the kernel, 3 or 4.
        stride: step of the kernel along both axes.
        bias: whether to add a learned bias.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, bias: bool = False
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride=stride, padding=1, padding_mode="reflect", bias=bias
        )

    def forward(self, *x: Tensor) -> Tensor:
        """Convolve ``[N, in_channels, H, W]``, in one or several parts."""
        joined = x[0] if len(x) == 1 else torch.cat(x, 1)
        if not _supported(joined):
            return super().forward(joined)
        tensors = _autocast(joined, self.weight, self.bias)
        result: Tensor = _Convolution.apply(*tensors, self.stride[0], True)  # type: ignore[no-untyped-call]
        return result


class Conv3d(nn.Conv3d):
    """3D convolution with a cubic kernel and replication padding by one voxel; it concatenates several inputs.

    Args:
        in_channels: sum of the inputs' channels.
        out_channels: channels of the output.
        kernel_size: side of the kernel, 3 or 4.
        stride: step of the kernel along all axes.
        bias: whether to add a learned bias.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, *, stride: int = 1, bias: bool = False
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride=stride, padding=1, padding_mode="replicate", bias=bias
        )

    def forward(self, *x: Tensor) -> Tensor:
        """Convolve ``[N, in_channels, D, H, W]``, in one or several parts."""
        return conv3d(replication_pad(*x), self.weight, self.bias, self.stride[0])


class ConvTranspose2d(nn.ConvTranspose2d):
    """2D transposed convolution with a 4² kernel and stride 2, which doubles the sides of an image.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        bias: whether to add a learned bias.
    """

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = False) -> None:
        super().__init__(in_channels, out_channels, 4, stride=2, padding=1, bias=bias)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: ARG002  # as PyTorch's
        """Convolve ``[N, in_channels, H, W]`` to ``[N, out_channels, 2H, 2W]``."""
        if not _supported(x):
            return super().forward(x)
        result: Tensor = _ConvTranspose2d.apply(*_autocast(x, self.weight, self.bias))  # type: ignore[no-untyped-call]
        return result


def conv3d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1) -> Tensor:
    """Convolve a volume without padding.

    Args:
        x: ``[N, C, D, H, W]``, channels-last.
        weight: ``[A, C, k, k, k]``, or ``[A, C, 1, k, k]``.
        bias: ``[A]``.
        stride: step of the kernel along all axes.

    Returns:
        ``[N, A, D', H', W']`` with D' = (D - k) // stride + 1.

    Example:
        >>> conv3d(torch.ones(1, 2, 4, 4, 4), torch.ones(5, 2, 3, 3, 3))[0, :, 0, 0, 0]
        tensor([54., 54., 54., 54., 54.])
    """
    if not _supported(x):
        return functional.conv3d(x, weight, bias, stride)
    result: Tensor = _Convolution.apply(*_autocast(x, weight, bias), stride, False)  # type: ignore[no-untyped-call]
    return result


def _supported(x: Tensor) -> bool:
    """Whether the implementations in this module apply; PyTorch's are used for all other tensors."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def _autocast(*tensors: Tensor | None) -> list[Tensor | None]:
    """Cast tensors to the autocast type, if autocast is enabled; the autograd functions below disable it."""
    if not torch.is_autocast_enabled("cpu"):
        return list(tensors)
    return [None if t is None else t.to(torch.get_autocast_dtype("cpu")) for t in tensors]


def _rows(x: Tensor) -> Tensor:
    """Permute ``[N, C, *size]`` to ``[N, *size, C]``, a copy only if it is not channels-last."""
    return x.movedim(1, -1).contiguous()


def _empty(like: Tensor, channels: int, size: Sequence[int]) -> Tensor:
    """Allocate a channels-last result, since views that an autograd function returns cannot be modified in place."""
    layout = torch.channels_last if len(size) == 2 else torch.channels_last_3d
    shape = (len(like), channels, *size)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)


def _matrix(weight: Tensor) -> Tensor:
    """Reshape weights ``[A, B, *kernel]`` to ``[A, K·B]``, a view if they are channels-last."""
    return weight.movedim(1, -1).reshape(len(weight), -1)


def _from_matrix(matrix: Tensor, like: Tensor) -> Tensor:
    """Inverse of :func:`_matrix`."""
    return matrix.view(len(like), *like.shape[2:], -1).movedim(-1, 1)


def _im2col(rows: Tensor, kernel: tuple[int, ...], stride: int = 1) -> Tensor:
    """Gather all patches of ``[N, *size, C]`` into ``[positions, K·C]``."""
    axes = len(kernel)
    channels = rows.shape[-1]
    for axis, side in enumerate(kernel):
        rows = rows.unfold(axis + 1, side, stride)  # in the end [N, *positions, C, *kernel]
    rows = rows.movedim(axes + 1, -1)
    return rows.reshape(-1, math.prod(kernel) * channels)


def _col2im(patches: Tensor, shape: tuple[int, ...], kernel: tuple[int, ...], stride: int) -> Tensor:
    """Transpose of :func:`_im2col`: add patches ``[positions, K·C]`` at their positions in ``[N, *size, C]``."""
    n, *size, channels = shape
    positions = [(whole - side) // stride + 1 for whole, side in zip(size, kernel, strict=True)]
    patches = patches.view(n, *positions, -1, channels)
    rows = patches.new_zeros(shape)
    for i, offsets in enumerate(product(*map(range, kernel))):
        at = [slice(o, o + stride * (p - 1) + 1, stride) for o, p in zip(offsets, positions, strict=True)]
        rows[(slice(None), *at)] += patches[..., i, :]
    return rows


def _bands(length: int, values: int) -> list[slice]:
    """Split ``range(length)``, of ``values`` per item, into bands of at most :data:`BAND_VALUES` values."""
    band = max(1, BAND_VALUES // values)
    return [slice(start, min(start + band, length)) for start in range(0, length, band)]


def _weight_gradient(rows: Tensor, grad_output: Tensor, kernel: tuple[int, ...], stride: int) -> Tensor:
    """Σ gradientᵀ·patch ``[A, K·C]`` over inputs ``[N, *size, C]`` and output gradients ``[N, *positions, A]``."""
    length = math.prod(kernel) * rows.shape[-1]
    if grad_output[..., 0].numel() * length <= BAND_VALUES:
        return grad_output.reshape(-1, grad_output.shape[-1]).T @ _im2col(rows, kernel, stride)
    total = rows.new_zeros(length, grad_output.shape[-1])
    for image, grad_image in zip(rows, grad_output, strict=True):
        for band in _bands(len(grad_image), grad_image[0, ..., 0].numel() * length):
            inputs = image[None, band.start * stride : (band.stop - 1) * stride + kernel[0]]
            total.addmm_(_im2col(inputs, kernel, stride).T, grad_image[band].reshape(-1, grad_output.shape[-1]))
    return total.T.contiguous()


def _both_gradients(x: Tensor, weight: Tensor, grad_output: Tensor, reflect: bool) -> tuple[Tensor, Tensor]:
    """Gradients of the (padded) input and of the weight at stride 1, from patches of the output's gradient."""
    kernel, axes = tuple(weight.shape[2:]), range(2, weight.dim())
    padding = [width for side in reversed(kernel) for width in (side - 1, side - 1)]
    flipped = weight.flip(*axes).permute(*axes, 0, 1).reshape(-1, weight.shape[1])
    grad_weight = torch.zeros_like(flipped)
    grad_x = _empty(x, x.shape[1], [side + 2 * reflect for side in x.shape[2:]])
    for image, grad_image, grad_rows in zip(torch.split(x, 1), _rows(grad_x), _rows(grad_output), strict=True):
        rows = _rows(_reflection_pad(image) if reflect else image)[0]
        padded = functional.pad(grad_rows, (0, 0, *padding))
        for band in _bands(len(rows), rows[0, ..., 0].numel() * len(flipped)):
            patches = _im2col(padded[None, band.start : band.stop + kernel[0] - 1], kernel)
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
        result = _empty(x, len(weight), positions)
        rows = torch.mm(_im2col(_rows(x), kernel, stride), _matrix(weight).T, out=_rows(result).view(-1, len(weight)))
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
    rows = _rows(grad_output)
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
            patches = rows.flatten(0, -2) @ _matrix(weight)
            grad_x = _col2im(patches, (len(x), *x.shape[2:], channels), kernel, stride).movedim(-1, 1)
        else:
            grad_x = _onednn_gradient(grad_output, x, weight, stride, 0)
    if ctx.needs_input_grad[1]:
        if x.dim() == 4 and channels >= MIN_CHANNELS:
            grad_weight = _from_matrix(_weight_gradient(_rows(x), rows, kernel, stride), weight)
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
        whole = _empty(x[:1], shape[1], shape[2:])
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


class _ConvTranspose2d(torch.autograd.Function):
    @staticmethod
    @torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        _save_for_backward(ctx, x, weight)
        n, channels, h, w = x.shape
        ctx.as_matrix = n * h * w <= channels
        if not ctx.as_matrix:
            return torch.conv_transpose2d(x, weight, bias, stride=2, padding=1)
        patches = _rows(x).view(-1, channels) @ _matrix(weight)
        padded = _col2im(patches, (n, 2 * h + 2, 2 * w + 2, weight.shape[1]), (4, 4), 2)
        result = _empty(x, weight.shape[1], (2 * h, 2 * w))
        rows = _rows(result).copy_(padded[:, 1:-1, 1:-1])
        if bias is not None:
            rows += bias
        return result

    @staticmethod
    @once_differentiable
    @torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = _saved(ctx)
        grad_x, grad_weight, grad_bias = None, None, None
        rows = functional.pad(_rows(grad_output), (0, 0, 1, 1, 1, 1))
        if ctx.needs_input_grad[0]:
            if ctx.as_matrix:
                grad_rows = _im2col(rows, (4, 4), 2) @ _matrix(weight).T
                grad_x = grad_rows.view(len(x), *x.shape[2:], -1).movedim(-1, 1)
            else:
                grad_x = torch.conv2d(rows.movedim(-1, 1), weight, stride=2)
        if ctx.needs_input_grad[1]:
            grad_weight = _from_matrix(_weight_gradient(rows, _rows(x), (4, 4), 2), weight)
        if ctx.needs_input_grad[2]:
            grad_bias = grad_output.sum((0, 2, 3))
        return grad_x, grad_weight, grad_bias
