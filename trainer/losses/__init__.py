"""Losses as plain functions of tensors; each returns one value a sample, (N,), and the objective takes the mean once."""
