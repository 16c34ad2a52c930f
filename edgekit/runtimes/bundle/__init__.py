"""Bundles: a folder with a model's files, its manifest and the hash of every file."""
