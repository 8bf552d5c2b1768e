"""What the commands do: one file a group of commands. `benchmark.cli` parses and imports them when they are called."""
