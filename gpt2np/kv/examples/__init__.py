"""Examples that run as they are: `python -m gpt2np.export.examples.basic_usage`."""
