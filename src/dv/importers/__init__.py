"""Readers of foreign formats: each is a function ``read_X(path) -> PhotographSet``."""
