"""Generators, discriminators, encoders and matchers, and the blocks that they share."""
