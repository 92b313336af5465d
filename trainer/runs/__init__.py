"""What runs leave on disk, and trained networks read back from it."""
