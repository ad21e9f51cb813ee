"""Recipes: a method as six choices, in TOML."""
