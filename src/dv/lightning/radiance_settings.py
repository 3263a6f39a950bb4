"""How a radiance grid is trained: what is drawn, when its vertices change, and how fast each part learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from dv.errors import UserError
from dv.number import is_number

SMALLEST_SIDE = 8


@dataclass(frozen=True)
class RadianceSettings:
    """The ``model`` configuration of a radiance grid, but for its sizes. Times are parts of the training, in [0, 1]."""

    rays: int  # of a sample, of all its pixels together
    refine_at: Sequence[float]  # each doubles the side
    prune_at: Sequence[float]
    fine_at: float  # until then samples lie twice as far apart
    view_from: float  # until then colours do not depend on the view, and the linear share stays: surfaces come first
    density_rate: float  # times the training's part that a step is: density's learning rate at first, in the features'
    density_rise: float  # what this ratio grows by, exponentially, to the end
    background_rate: float
    linear_share_rate: float
    decoder_rate: float
    exposure_rate: float  # of the views' exposures; 0: all have the same
    smoothing: float  # times their learning rate: part of the way to their neighbours' mean that features go in a step
    sparsity: float  # gradient added to every density, times the schedule

    def check(self) -> None:
        """Raise :class:`UserError` naming the key that cannot be."""
        if not isinstance(self.rays, int) or self.rays < 1:
            raise UserError(f"model.rays={self.rays} must be a whole number of at least 1")
        for key in ("refine_at", "prune_at"):
            times = getattr(self, key)
            if not isinstance(times, list | tuple) or not all(is_number(at) and 0 < at < 1 for at in times):
                raise UserError(f"model.{key}={times} must be a list of numbers between 0 and 1, as [0.1,0.3], or []")
        for key in (field.name for field in fields(self) if field.type == "float"):
            if not is_number(getattr(self, key)) or getattr(self, key) < 0:
                raise UserError(f"model.{key}={getattr(self, key)} must be a number that is not negative")
        for key in ("fine_at", "view_from"):
            if getattr(self, key) > 1:
                raise UserError(f"model.{key}={getattr(self, key)} must be a part of the training, from 0 to 1")
        if not self.density_rise:
            raise UserError("model.density_rise=0 must be more than 0; 1 lets the ratio stay as it is")

    @property
    def events(self) -> list[tuple[float, str]]:
        """When the vertices change, and how: pruned, refined or given what depends on the view, in this order."""
        changes = {"prune": self.prune_at, "refine": self.refine_at, "view": [self.view_from]}
        return sorted(((at, change) for change, times in changes.items() for at in times), key=lambda event: event[0])

    def side(self, final: int, refined: int) -> int:
        """Vertices along an edge after ``refined`` refinements on the way to ``final``."""
        return max(SMALLEST_SIDE, round(final / float(2 ** (len(self.refine_at) - refined))))
