"""Compute kernels of the networks and of ray marching: functions of tensors, without configuration or files."""
