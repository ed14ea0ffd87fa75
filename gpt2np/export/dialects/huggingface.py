"""Hugging Face's names for a trace: those of the output object of a forward pass."""

from gpt2np.export.dialects.naming import HEADS_FIRST, SAME, Form, Item, Naming
from gpt2np.tracing.contract import ModelConfig


def huggingface(config: ModelConfig) -> Naming:
    """HF's output object. An item is named by the expression that gives it: `attentions[3]`.

    `past_key_values` are the sites that the model caches, head-first, with all rows: HF's own cache of a
    layer with a window drops those that no later query sees.
    """
    naming, layers = Naming(), range(config.n_layer)

    def item(name: str, site: str, layer: int | None = None, form: Form = SAME) -> Item:
        return Item(name, config.architecture.sites[site], layer, form, batch=True)

    naming.add(item("logits", "logits"))
    naming.groups["past_key_values"] = tuple(
        naming.add(
            *(
                item(f"past_key_values[{i}][{n}]", site, i, HEADS_FIRST)
                for n, site in enumerate(config.architecture.cache)
            )
        )
        for i in layers
    )
    states = [("embed", None), *(("resid_post", i) for i in layers[:-1]), ("ln_f", None)]
    naming.groups["hidden_states"] = naming.add(
        *(item(f"hidden_states[{n}]", site, layer) for n, (site, layer) in enumerate(states))
    )
    naming.groups["attentions"] = naming.add(*(item(f"attentions[{i}]", "attn.pattern", i) for i in layers))
    return naming
