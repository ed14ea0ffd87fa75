"""The verbs of the command line, a few to a file; each file adds its own to the parser by `register`."""
