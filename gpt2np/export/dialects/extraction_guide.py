"""The extraction guide's names for a trace (document 000)."""

import numpy as np

from gpt2np.architectures.gpt2.config import gpt2_only
from gpt2np.export.dialects.naming import MERGED_HEADS, Item, Naming
from gpt2np.tracing.contract import ModelConfig


def extraction_guide(config: ModelConfig) -> Naming:
    """The extraction guide: the names of its summary table, and those that its hooks give to one layer."""
    gpt2_only(config, "names of the extraction guide")
    table = config.architecture.sites
    naming = Naming(
        facts={
            "token_ids": lambda trace: np.array(trace.token_ids, np.int64),
            "tokens": lambda trace: trace.tokens,
            "attention_mask": lambda trace: trace.attention_mask,
            "position_ids": lambda trace: trace.position_ids,
        }
    )
    layers = range(config.n_layer)
    for site in table:
        names = site.names.get("guide", ())
        hook = next((name for name in names if "{i}" in name), None)
        if hook is not None:  # `layer_3_Q`, and `Q` for a tuple of them
            one_a_layer = naming.add(*(Item(hook.replace("{i}", str(i)), site, i) for i in layers))
            naming.groups |= {name: one_a_layer for name in names if "{i}" not in name}
        elif names:
            naming.add(Item(names[0], site))
            naming.aliases |= dict.fromkeys(names[1:], names[0])
    merged = (
        Item(f"layer_{i}_weighted_values", table["attn.z"], i, MERGED_HEADS, again=True) for i in layers
    )
    naming.groups["weighted_values"] = naming.add(*merged)  # of layer_i_result, which keeps heads apart
    states = [("embed", None), *(("resid_post", i) for i in layers)]  # the last one before ln_f
    naming.groups["hidden_states"] = naming.add(
        *(Item(f"hidden_states[{n}]", table[s], i, again=True) for n, (s, i) in enumerate(states))
    )
    return naming
