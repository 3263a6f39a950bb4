"""Compute kernels of the networks and of ray marching. Tensors in, tensors out: no configuration, no files."""
