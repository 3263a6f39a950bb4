"""Procedural objects and meshes rendered with Mitsuba 3."""
