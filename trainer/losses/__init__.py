"""Losses as plain functions of tensors: one value a sample, (N,); the objective takes the mean once."""
