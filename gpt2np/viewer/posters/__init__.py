"""A run on one large sheet: facts of it, what has room, and each part's drawing."""
