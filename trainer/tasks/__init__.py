"""What an image task starts from, and what it must leave as it is: a file a task."""
