"""What each command does, given a configuration."""
