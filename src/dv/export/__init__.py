"""Exports of trained models: a page, meshes, point clouds, Gaussian splats and arrays."""
