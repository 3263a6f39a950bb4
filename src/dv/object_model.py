"""The interface of every model of one object: training, checkpoints, evaluation and rendering know only this."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Self

from torch import Tensor, nn

from dv.geometry.camera import Intrinsics
from dv.geometry.grid import GridPlacement


class RenderedView(NamedTuple):
    """One rendered view.

    ``image`` is ``[3, S, S]`` in [-0.5, 0.5]; ``depth`` ``[1, P, P]``, camera z in world units, is None for a model
    without depth; ``opacity`` ``[1, S, S]`` in [0, 1] is None for a model that paints the background itself.
    """

    image: Tensor
    depth: Tensor | None = None
    opacity: Tensor | None = None


class ObjectModel(nn.Module, ABC):
    """A representation of one object that renders views from any pose.

    ``sizes`` is a dataclass of all that determines the shapes of the network; it is saved in checkpoints. It has at
    least ``image_side``, px.
    """

    sizes_class: ClassVar[Any]
    sizes: Any
    placement: GridPlacement | None

    @classmethod
    def from_state(cls, sizes: Mapping[str, Any], placement: GridPlacement, state: Mapping[str, Tensor]) -> Self:
        """Build the model of a checkpoint from its sizes, grid placement and state dict."""
        model = cls(cls.sizes_class(**sizes), placement)
        model.load_saved(sizes, state)
        return model

    @property
    def has_depth(self) -> bool:
        """Whether rendered views have depth."""
        return True

    @abstractmethod
    def render_views(self, poses: Tensor, intrinsics: Intrinsics, batch_size: int) -> Iterator[RenderedView]:
        """Render views one after the other.

        Args:
            poses: camera-to-world ``[N, 4, 4]``, on the device of the model.
            intrinsics: of all views, at any side.
            batch_size: number of views that may be rendered together.
        """

    @abstractmethod
    def max_depth(self, poses: Tensor) -> float:
        """Upper bound on the depth of the views ``[N, 4, 4]``, camera z in world units."""

    @abstractmethod
    def point_cloud(self, max_points: int) -> tuple[Tensor, Tensor]:
        """World positions and colours in [0, 1], ``[N, 3]`` each, of at most ``max_points`` points of the object."""

    def compile_networks(self) -> None:  # optional
        """Compile with torch.compile what gains from it; by default nothing."""

    def load_saved(self, sizes: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:  # noqa: ARG002
        """Load a state dict that a model of ``sizes`` has saved.

        Raises:
            ValueError: naming the first entry that does not fit.
        """
        own = self.state_dict()
        wrong = [
            f"{name} is {tuple(state[name].shape) if name in state else 'missing'}, needs to be {tuple(value.shape)}"
            for name, value in own.items()
            if name not in state or state[name].shape != value.shape
        ]
        if wrong:
            raise ValueError(f"does not fit the configured model: {wrong[0]} ({len(wrong)} such entries)")
        self.load_state_dict(state)
