"""Hugging Face's names for a trace: those of the output object of a forward pass."""

from dataclasses import replace

from gpt2np.export.dialects.naming import HEADS_FIRST, SAME, Form, Item, Naming
from gpt2np.ops import Array
from gpt2np.tracing.cache import first_kept
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.plan import Plan


def huggingface(config: ModelConfig) -> Naming:
    """HF's output object. An item is named by the expression that gives it: `attentions[3]`.

    `past_key_values` are the sites that the model caches, head-first. Of layers with a window there are only
    the rows that HF's cache keeps: those that the next query can see, if HF's cache of such a model drops
    any.
    """
    naming, layers = Naming(), range(config.n_layer)

    def item(name: str, site: str, layer: int | None = None, form: Form = SAME) -> Item:
        return Item(name, config.architecture.sites[site], layer, form, batch=True)

    naming.add(item("logits", "logits"))
    naming.groups["past_key_values"] = tuple(
        naming.add(
            *(
                item(f"past_key_values[{i}][{n}]", site, i, _cached(config, i))
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


def _cached(config: ModelConfig, layer: int) -> Form:
    """Keys or values of a layer as HF's cache has them."""

    def kept_rows(x: Array, plan: Plan) -> Array:
        first = first_kept(config, layer, plan.length)
        return x[..., len([p for p in plan.positions if p < first]) :, :, :]

    return replace(
        HEADS_FIRST,
        to=lambda x, plan: HEADS_FIRST.to(kept_rows(x, plan), plan),
        first=lambda plan: first_kept(config, layer, plan.length),
    )
