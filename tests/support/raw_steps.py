"""The steps that a program in another language wrote, held against a fixture's own files, without gpt2np."""

import numpy as np
from safetensors.numpy import load_file


def read(dump, shapes):
    """The steps of a dump by name, in order."""
    found, data, at = {}, dump.read_bytes(), 0
    for line in shapes.read_text().splitlines():
        name, dtype, *sizes = line.split()
        assert dtype == "float32"
        shape = [int(size) for size in sizes]
        found[name] = np.frombuffer(data, "<f4", int(np.prod(shape)), at).reshape(shape)
        at += found[name].nbytes
    assert at == len(data)
    return found


def outside(fixture, steps):
    """Names of the steps that leave their band, in order, and the largest share of a band that was used."""
    truth, bands = load_file(fixture / "trace.safetensors"), load_file(fixture / "bands.safetensors")
    shares = {}
    for name, step in steps.items():
        same = step == truth[name]  # -inf in the future
        with np.errstate(invalid="ignore"):
            shares[name] = np.where(same, 0, np.abs(step - truth[name]) / bands[name]).max()
    return [name for name, share in shares.items() if not share <= 1], max(shares.values())
