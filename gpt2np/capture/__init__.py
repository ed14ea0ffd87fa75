"""Capture files of many prompts (document 001)."""
