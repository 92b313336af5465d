"""Weights that others trained: from a package, a folder, or the Hugging Face hub, checked before they are used."""
