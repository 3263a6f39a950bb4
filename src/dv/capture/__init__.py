"""Photographs and videos without cameras: decoding, structure from motion, triangulation."""
