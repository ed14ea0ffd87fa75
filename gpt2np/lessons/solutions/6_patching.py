"""Lesson 6, solved."""

import numpy as np

from gpt2np.analysis.interventions import patch


def patched(clean, corrupt, layer, head):
    """Edits for a run of the second text."""
    if len(clean.token_ids) != len(corrupt.token_ids):
        raise ValueError("count your tokens")
    return {f"h.{layer}.attn.z": patch(clean, heads=head)}


def recovered(patched, clean, corrupt):
    """0: nothing comes back; 1: everything does."""
    return (patched - corrupt) / (clean - corrupt)


def direction(runs_a, runs_b):
    """[n_embd], from the second kind to the first."""
    a, b = (np.mean([x[1:].mean(axis=0) for x in runs], axis=0) for runs in (runs_a, runs_b))
    return a - b
