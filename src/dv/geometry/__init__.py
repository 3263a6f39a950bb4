"""Cameras, grid placement, projection and resampling operators, trajectories. No network, no files.

Conventions, everywhere in the package:

- camera axes are OpenCV's: x right, y down, z into the image; a *pose* is camera-to-world, ``[4, 4]``;
- pixel ``(col, row)`` has image coordinate ``(col + c, row + c)`` where c is the camera's ``pixel_center``: 0 in the
  reference, 0.5 in everything that `prepare.py` writes; operators and tensors count in pixels, so c stays in
  :class:`~dv.geometry.camera.Intrinsics`;
- a *voxel grid* tensor is ``[1, F, G, G, G]`` with axes ``(z, y, x)``; voxel ``(ix, iy, iz)`` sits at
  ``origin + (i - G/2) * v`` with the voxel side ``v = scale / G``, all in world units;
- a *frustum* tensor is ``[N, C, D, P, P]`` with axes ``(depth, row, col)``.
"""
