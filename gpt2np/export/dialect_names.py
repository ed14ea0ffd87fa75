"""What dialects are called: known without importing them, so that the command line starts fast."""

NAMES = ("gpt2np", "guide", "hf", "transformer_lens", "llm.c")
