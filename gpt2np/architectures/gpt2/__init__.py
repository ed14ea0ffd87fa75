"""GPT-2: its parameters and its forward pass."""
