"""Keys and values of a text as files (document 003)."""
