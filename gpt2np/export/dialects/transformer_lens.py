"""TransformerLens' names for a trace: its hooks."""

from gpt2np.export.dialects.naming import STANDARD_DEVIATION, Item, Naming
from gpt2np.tracing.config import Config
from gpt2np.tracing.sites import BY_NAME, expand


def transformer_lens(config: Config) -> Naming:
    """The hooks of a HookedTransformer loaded without processing, in their order, without a batch axis."""
    naming = Naming()
    for _, site, layer in expand(config.n_layer):
        name = site.dialect_name("transformer_lens", layer)
        if name is not None and "hook_" in name:
            naming.add(Item(name, site, layer))
        norm, _, statistic = site.name.rpartition(".")
        if statistic == "rstd":  # its inverse is the scale that stands beside hook_normalized
            beside = BY_NAME[f"{norm}.normalized"].dialect_name("transformer_lens", layer) or ""
            scale = beside.replace("hook_normalized", "hook_scale")
            naming.add(Item(scale, site, layer, STANDARD_DEVIATION))
    return naming
