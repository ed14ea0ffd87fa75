"""The functions of each lesson as they should be, and nothing else: the names are those of the stubs."""
