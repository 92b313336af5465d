"""Captions and seeds to images: one at a time, many by many processes, on a sheet."""
