"""Slim memory for reasoning language models: learn what to forget, then really forget it."""

__version__ = "0.1.0"
