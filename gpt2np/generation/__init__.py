"""Choosing tokens, one after another; and how well a text is predicted."""
