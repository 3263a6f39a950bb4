"""The networks of DeepVoxels. Tensors in, tensors out: no files, no Lightning.

2D tensors are ``[N, C, row, col]``, grids ``[N, C, z, y, x]``, frustums ``[N, C, depth, row, col]``. "Same" 3³ and 3²
convolutions pad by reflection in 2D and by replication in 3D. A convolution followed by a norm has no bias.
"""
