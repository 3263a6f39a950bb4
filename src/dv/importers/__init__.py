"""Importers of other formats: each is a function ``read_X(path, …) -> PhotographSet``."""
