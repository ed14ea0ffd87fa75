"""Holds somebody else's tensors against ours, and says which step is wrong and why."""
