"""`python -m gpt2np` is the command line."""

import sys

try:
    from gpt2np.cli import main

    code = main()
except KeyboardInterrupt:
    code = 130
sys.exit(code)
