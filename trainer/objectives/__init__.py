"""What is trained: networks, and for each that trains a loss. The only training loop is in `base`."""
