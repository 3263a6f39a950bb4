"""Exposures of the training views, and the exposure that a camera would choose for a new view."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTHS = (0.1, 0.2, 0.4, 0.8)  # candidates for the width of the kernel
NOISES = (0.01, 0.05, 0.2)  # candidates for the variance of a view's own exposure relative to that of their common part
MAX_VIEWS = 400  # of more views, every second, third, … is used: the time grows with their cube
MIN_GAIN = 0.25  # exposures are predicted if this fraction of their variance can be


class ViewExposures(nn.Module):
    """Logarithmic gains ``[V, 3]`` of the training views, from which those of new views are predicted.

    Automatic exposure depends on what a camera sees, and so do the gains of views from nearby: they are a Gaussian
    process over camera poses with a squared exponential kernel (Rasmussen and Williams 2006, equation 2.23). The
    distance of two cameras is that of their six coordinates: position, relative to the box's side, and viewing
    direction. Width and noise of the kernel are those that best predict each training view from the others (equation
    5.12). If even they predict little, as where exposures are random, new views have the mean exposure.

    Args:
        views: V.

    >>> exposures = ViewExposures(3)
    >>> exposures.cameras.copy_(torch.eye(3).repeat(1, 2) / 10)[0, 0]
    tensor(0.1000)
    >>> exposures.predict(torch.eye(4), unit=1.0)  # nothing is learned yet
    tensor([0., 0., 0.])
    """

    cameras: Tensor

    def __init__(self, views: int) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.zeros(views, 3))
        self.register_buffer("cameras", torch.zeros(views, 6))
        self._fit: tuple[object, float, Tensor] | None = None

    def set_cameras(self, poses: Tensor, unit: float) -> None:
        """Set the cameras of the training views.

        Args:
            poses: camera-to-world ``[V, 4, 4]``.
            unit: side of the box, world units.
        """
        self.cameras.copy_(_coordinates(poses, unit))

    @torch.no_grad()
    def predict(self, pose: Tensor, unit: float) -> Tensor:
        """Return the logarithmic gains ``[3]`` of a view of pose ``[4, 4]``, with :meth:`set_cameras`'s unit."""
        width, weights = self._fitted()
        to_views = torch.cdist(_coordinates(pose[None], unit).double(), self.cameras[self._used()].double())
        predicted: Tensor = (_kernel(to_views, width) @ weights)[0]
        return predicted.to(self.log_gain.dtype)

    def _fitted(self) -> tuple[float, Tensor]:
        """Return the kernel's width and the used views' weights, anew only if exposures or cameras changed."""
        version = self.log_gain._version, self.cameras._version, self.log_gain.device
        if self._fit is None or self._fit[0] != version:
            self._fit = version, *self._fit_kernel()
        return self._fit[1:]

    def _used(self) -> slice:
        """The views from which others are predicted."""
        return slice(None, None, -(-len(self.log_gain) // MAX_VIEWS))

    def _fit_kernel(self) -> tuple[float, Tensor]:
        """Choose width and noise by leaving out one view after the other; weights of 0 predict the mean exposure."""
        gains, cameras = self.log_gain[self._used()].double(), self.cameras[self._used()].double()
        distances = torch.cdist(cameras, cameras)
        identity = torch.eye(len(gains), dtype=gains.dtype, device=gains.device)
        least, best = (1 - MIN_GAIN) * gains.square().mean(), (1.0, torch.zeros_like(gains))
        for width in WIDTHS:
            for noise in NOISES:
                inverse = torch.linalg.inv(_kernel(distances, width) + noise * identity)
                weights = inverse @ gains
                error = (weights / inverse.diagonal()[:, None]).square().mean()
                if error < least:
                    least, best = error, (width, weights)
        return best

    @torch.no_grad()
    def center(self) -> None:
        """Let the logarithmic gains average 0: the mean exposure is the object's brightness."""
        self.log_gain.copy_(self.log_gain - self.log_gain.mean(0))


def expose(colors: Tensor, factors: Tensor, transmittance: Tensor, background: Tensor | None) -> Tensor:
    """Multiply colours by the gains of their views.

    Args:
        colors: rendered pixels ``[P, 3]``, about [-0.5, 0.5].
        factors: ``[3]`` or ``[P, 3]``, of sRGB values.
        transmittance: ``[P]``.
        background: a colour ``[3]`` that no camera took and that therefore stays the same; None: there is none.
    """
    taken = colors + 0.5
    if background is not None:
        taken = taken - transmittance[:, None] * (background + 0.5)
    return colors + taken * (factors - 1)


def _kernel(distances: Tensor, width: float) -> Tensor:
    return torch.exp(-0.5 * (distances / width).square())


def _coordinates(poses: Tensor, unit: float) -> Tensor:
    """Positions and viewing directions of cameras, ``[V, 6]``."""
    return torch.cat([poses[:, :3, 3] / unit, poses[:, :3, 2]], 1)
