"""Networks of DeepVoxels and of the radiance grid: modules of tensors, without files or Lightning.

2D tensors are ``[N, C, row, column]``, voxel grids ``[N, C, z, y, x]`` and frustums ``[N, C, depth, row, column]``.
Convolutions pad by reflection in 2D and by replication in 3D. A convolution that a norm follows has no bias.
"""
