"""The elastic algebra: selections of a model, choosers that make them, and the fold that joins what comes back."""
