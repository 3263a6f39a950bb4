"""Rendering trained models: restoring them, the cameras of trajectories, folders of frames, and films."""
