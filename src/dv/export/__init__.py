"""Exports of trained models: a page, meshes, point clouds, splats, grids and archives."""
