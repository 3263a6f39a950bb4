"""The interface of every model of one object, the only one that checkpoints, evaluation and rendering use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Self

from torch import Tensor, nn

from dv.geometry.camera import Intrinsics
from dv.geometry.grid import GridPlacement


class RenderedView(NamedTuple):
    """One rendered view.

    ``image`` is ``[3, H, W]`` in [-0.5, 0.5]; ``depth`` is camera z in world units, ``[1, P, Q]`` of any size, and None
    for a model without depth; ``opacity`` is ``[1, H, W]`` in [0, 1], and None for a model that has none.
    """

    image: Tensor
    depth: Tensor | None = None
    opacity: Tensor | None = None


class ObjectModel(nn.Module, ABC):
    """A representation of one object that renders views from any pose.

    ``sizes`` is a dataclass of class ``sizes_class`` with everything that determines the shapes of the network; it is
    saved in checkpoints. A model of square images has a field ``image_side`` in it, in px; without it, or with None,
    images are read as ``data.longest_side`` in the checkpoint's configuration says.
    """

    sizes_class: ClassVar[Any]
    squares_only: ClassVar[bool] = False  # whether rendered images must be square
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

    @property
    def has_opacity(self) -> bool:
        """Whether rendered views have opacity, and :meth:`isolate` works."""
        return False

    @abstractmethod
    def render_views(self, poses: Tensor, intrinsics: Intrinsics, batch_size: int) -> Iterator[RenderedView]:
        """Render views one after the other.

        Args:
            poses: camera-to-world ``[N, 4, 4]``, on the device of the model.
            intrinsics: intrinsics of all views at the size of the images, squares of any side for a model of squares.
            batch_size: number of views that may be rendered together.
        """

    @abstractmethod
    def max_depth(self, poses: Tensor) -> float:
        """Upper bound on the depth of the views of poses ``[N, 4, 4]``, camera z in world units."""

    @abstractmethod
    def point_cloud(self, max_points: int) -> tuple[Tensor, Tensor]:
        """World positions and colours in [0, 1], ``[N, 3]`` each, of at most ``max_points`` points of the object."""

    def isolate(self) -> None:
        """Keep only what lies in the box, before black: images then hold colours multiplied by opacity.

        Raises:
            ValueError: if the model has no opacity.
        """
        raise ValueError("this model has no opacity by which a thing could be told from its surroundings")

    def use_mean_exposure(self) -> None:
        """Render all views with one exposure; there is nothing to do for a model without exposures."""

    def supersample(self, rays: int) -> None:
        """Render views by ``rays``² rays per pixel.

        Raises:
            ValueError: if the model has no rays.
        """
        raise ValueError(f"this model renders images by a network, so a pixel cannot have {rays}² rays")

    def compile_networks(self) -> None:
        """Compile with torch.compile what becomes faster by it; by default nothing."""

    def load_saved(self, sizes: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:  # noqa: ARG002  # for models that compare them
        """Load the state dict of a saved model, whose sizes had the fields ``sizes``.

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
