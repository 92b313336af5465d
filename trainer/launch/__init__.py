"""Launching on a cluster."""
