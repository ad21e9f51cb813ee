"""What a device's data is worth to the model: one estimator a file."""
