"""The GPT-2 that can be seen through: from scratch in NumPy, every intermediate tensor recorded."""

__version__ = "0.1.0"
