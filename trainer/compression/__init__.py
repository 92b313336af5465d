"""Passes that make a trained generator smaller and faster: (network, inputs, **options) -> network."""
