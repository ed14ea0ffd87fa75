"""Other people's files, written from our traces and read back: one module a format."""
