"""A picture of the user's changed by words: where a generator draws it, and which way the words lead from there."""
