"""The residual stream of many prompts by a torch model, one by one or in padded batches, in a file."""

import torch
from safetensors.torch import load_file, save_file


def name_of(layer):
    return f"h.{layer}.resid_post"


def capture(residuals, prompts, out, batch, in_order):
    """Write `residuals(ids)` of all prompts, a [batch, pos, n_embd] for each layer, as float16 rows.

    Batches are of prompts of like length, or of those that follow one another (`in_order`), padded on the
    right, which causal attention does not see.
    """
    starts = [0]
    for prompt in prompts:
        starts.append(starts[-1] + len(prompt))
    order = range(len(prompts)) if in_order else sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    kept = {}
    with torch.no_grad():
        for first in range(0, len(prompts), batch):
            members = order[first : first + batch]
            longest = max(len(prompts[i]) for i in members)
            ids = torch.tensor([prompts[i] + [0] * (longest - len(prompts[i])) for i in members])
            for layer, x in enumerate(residuals(ids)):
                if layer not in kept:
                    kept[layer] = torch.empty((starts[-1], x.shape[-1]), dtype=torch.float16)
                for row, i in zip(x, members, strict=True):
                    kept[layer][starts[i] : starts[i + 1]] = row[: len(prompts[i])]
    save_file({name_of(layer): x for layer, x in kept.items()}, out)


def captured(out):
    """Some numbers of the last layer of such a file."""
    layers = load_file(out)
    return sample(layers[name_of(len(layers) - 1)])


def sample(rows):
    """Some numbers of [pos, n_embd]."""
    return rows[::37, :8].float().tolist()
