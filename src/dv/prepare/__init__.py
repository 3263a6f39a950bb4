"""From posed photographs to an object in the DeepVoxels folder layout: placing the grid, rectifying, checking, writing."""
