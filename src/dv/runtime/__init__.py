"""Process-level code: ranks, parent watchdog, memory, atomic files, revision."""
