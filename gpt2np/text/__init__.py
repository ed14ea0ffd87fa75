"""Text to token ids and back; what may be given as a prompt."""
