"""The sizes of a radiance grid."""

from __future__ import annotations

from dataclasses import dataclass

MAX_DEGREE = 4  # of spherical harmonics


@dataclass(frozen=True)
class RadianceSizes:
    """Everything that determines a radiance grid, except which vertices it has.

    Raises:
        ValueError: if the sizes cannot form a radiance grid.
    """

    image_side: int | None  # px, if the images are squares that were cropped and reduced to it
    grid_side: int  # vertices along an edge at the end of the training
    view_degree: int = 0  # of the spherical harmonics; 0: a colour that does not depend on the view
    decoder_features: int = 0  # 0: no decoder
    decoder_width: int = 32
    decoder_degree: int = 1  # of the harmonics of directions
    reflection_degree: int = 0  # of the harmonics of reflected directions; 0: none
    initial_density: float = -5.0  # raw, before the softplus
    density_falloff: float = 0.0  # of the initial density, from each level to the next
    supersampling: int = 1  # rays along a pixel's edge in training
    view_supersampling: int = 0  # likewise in rendered views; 0: as in training
    linear_share: float = 0.0  # at the start
    levels: int = 1  # cubes, each twice as wide as the one before; the first is the box around the object
    environment: int = 0  # rows of the panorama beyond the last level; 0: one colour
    exposures: int = 0  # training views whose exposures are learned
    vignetting: int = 0  # cameras whose vignetting is learned
    near: float = 0.0  # distance from the camera to the first samples, relative to the box's side

    def __post_init__(self) -> None:
        for name in ("view_degree", "decoder_degree", "reflection_degree"):
            if getattr(self, name) not in range(MAX_DEGREE + 1):
                raise ValueError(f"{name}={getattr(self, name)} must be 0 to {MAX_DEGREE}")
        minima = {
            "grid_side": 8,
            "decoder_features": 0,
            "decoder_width": 1,
            "supersampling": 1,
            "view_supersampling": 0,
            "levels": 1,
        }
        for name, minimum in minima.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {minimum}")

    @property
    def features(self) -> int:
        """Number of features per vertex: harmonic coefficients, features of the decoder alone, and a normal."""
        return self.decoder_inputs + 3 * self.has_normals

    @property
    def decoder_inputs(self) -> int:
        """Number of features that the decoder reads."""
        return self.coefficients + self.decoder_features

    @property
    def has_normals(self) -> bool:
        """Whether the last three features of a vertex are a normal."""
        return self.decoder_features > 0 and self.reflection_degree > 0

    @property
    def direction_channels(self) -> int:
        """Size of the direction encoding: view harmonics, cosine to the normal and reflected harmonics."""
        reflected = (self.reflection_degree + 1) ** 2 if self.has_normals else 0
        return (self.decoder_degree + 1) ** 2 - 1 + reflected

    @property
    def coefficients(self) -> int:
        """Number of harmonic coefficients of the three colour channels."""
        return int(3 * (self.view_degree + 1) ** 2)

    @property
    def rays_per_pixel(self) -> int:
        """Number of rays per pixel in training."""
        return self.supersampling**2

    @property
    def view_rays(self) -> int:
        """Number of rays along a pixel's edge in rendered views."""
        return self.view_supersampling or self.supersampling
