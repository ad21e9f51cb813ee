"""Codings: updates and models to bytes and back. A coding is a chain of links; `coding.build` makes one from text."""
