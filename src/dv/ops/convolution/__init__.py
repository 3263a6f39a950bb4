"""Convolutions that are fast on CPUs; on other devices they are PyTorch's own.

oneDNN's forward convolutions run at the machine's full speed, but (in PyTorch 2.13) its weight gradients take three to
thirty times as long, and layers with more weights than pixels spend their time on reordering weights. Here both are
matrix products of patches (im2col), which BLAS computes at full speed. All tensors are channels-last.
"""
