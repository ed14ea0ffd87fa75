"""Examples that run as they are: `python -m gpt2np.kv.examples.basic_usage`."""
