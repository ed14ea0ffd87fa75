"""A checkpoint, wherever it lies, as config and arrays."""
