"""Sensors: one a file, the root of the file system as an argument; what a board does not tell is None, never 0."""
