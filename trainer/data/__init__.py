"""Captioned images: sources, the decoded cache, and the resumable stream of training batches."""
