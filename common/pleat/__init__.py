"""pleat: federated learning that folds one model to fit every device. This package is what both sides share."""

__version__ = "0.1.0"
