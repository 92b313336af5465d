"""A run on one page that needs nothing but a browser, and several runs side by side."""
