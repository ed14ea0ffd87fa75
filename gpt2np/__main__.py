"""`python -m gpt2np` is the command line."""

import sys

from gpt2np.cli import main

sys.exit(main())
