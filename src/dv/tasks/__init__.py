"""The commands: one function per command, which takes its typed configuration."""
