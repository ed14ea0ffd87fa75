"""How fast gpt2np is, beside others and beside the limits of the machine: `python -m benchmarks`."""
