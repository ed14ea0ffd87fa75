"""Runs a command of the command line as a user does, inside this process."""

from gpt2np.cli import main


def run(capsys, *argv):
    """(exit code, stdout, stderr) of `gpt2np ...`."""
    try:
        code = main([str(word) for word in argv])
    except SystemExit as stop:  # argparse
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err
