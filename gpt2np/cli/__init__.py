"""The command line: `gpt2np VERB`."""

from gpt2np.cli.program import main

__all__ = ["main"]
