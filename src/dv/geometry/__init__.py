"""Cameras, grid placement, projection and resampling operators, and trajectories; no networks, no file access.

The following conventions hold everywhere in the package:

- Camera axes are OpenCV's: x right, y down, z into the image. A *pose* is a camera-to-world matrix ``[4, 4]``.
- The centre of pixel ``(col, row)`` has the image coordinate ``(col + c, row + c)``, where c is the camera's
  ``pixel_center``: 0 in the reference implementation, 0.5 in everything that `prepare.py` writes. Operators and tensors
  use pixel indices; c appears only in :class:`~dv.geometry.camera.Intrinsics`.
- A *voxel grid* tensor is ``[1, F, G, G, G]`` with axes ``(z, y, x)``. Voxel ``(ix, iy, iz)`` is centred at
  ``origin + (i - G/2) * v`` with the voxel side ``v = scale / G``, all in world units.
- A *frustum* tensor is ``[N, C, D, P, P]`` with axes ``(depth, row, col)``.
"""
