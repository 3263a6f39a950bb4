"""What is computed of a ray's composited features before the decoder: its view-dependent colour, and an encoding.

:mod:`dv.ops.encoding_reference` defines it in tensor operations; compiled kernels compute the same on CPUs
(:mod:`dv.ops.encoding_cpu`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dv.ops.encoding_reference import REFLECTED_SCALE, VIEW_SCALE, Degrees, Encoded, encode_reference, view_color

__all__ = ["REFLECTED_SCALE", "VIEW_SCALE", "Degrees", "Encoded", "encode", "encode_reference", "view_color"]


def encode(features: Tensor, directions: Tensor, degrees: Degrees) -> Encoded:
    """Encode the composited features of rays with the fastest implementation for the device.

    Args:
        features: ``[R, F]``: coefficients of the colour, 3 for each harmonic; features that only the decoder reads;
            with a reflection, a normal of any length.
        directions: unit vectors ``[R, 3]``.
        degrees: of the harmonics.

    Returns:
        The colours, and for each ray its features without the normal, the harmonics of its direction without the
        constant one and, with a reflection, the cosine between direction and normal and the harmonics of the reflected
        direction without the constant one, times :data:`REFLECTED_SCALE`.

    Example:
        >>> import torch
        >>> features = torch.tensor([[0.1, 0.2, 0.3, 7.0, 0.0, 0.0, -2.0]])  # a colour, one more feature, a normal
        >>> encoded = encode(features, torch.tensor([[0.0, 0.0, 1.0]]), Degrees(view=0, direction=0, reflection=1))
        >>> encoded.inputs[0].tolist()[3:]
        [7.0, -1.0, 0.0, 0.0, -0.25]
    """
    if features.device.type == "cpu" and not torch.compiler.is_exporting():  # programs for others contain no kernels
        from dv.ops import encoding_cpu  # here, because importing numba takes half a second

        return encoding_cpu.encode(features, directions, degrees)
    return encode_reference(features, directions, degrees)
