"""DeepVoxels (Sitzmann et al., CVPR 2019) as a PyTorch Lightning experiment framework."""

__version__ = "0.1.0"
