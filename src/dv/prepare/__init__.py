"""Turning posed photographs into an object in the DeepVoxels folder layout; checking and exporting objects."""
