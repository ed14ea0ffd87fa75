"""The command line: `gpt2np VERB`."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:  # Ctrl-C during the imports, too, ends without a traceback
        from gpt2np.cli.program import main as run

        return run(argv)
    except KeyboardInterrupt:
        return 130
