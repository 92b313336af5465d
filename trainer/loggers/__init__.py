"""Where the figures of a run go: a table of its folder, and W&B."""
