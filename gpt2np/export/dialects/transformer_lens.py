"""TransformerLens' names for a trace: its hooks."""

from gpt2np.export.dialects.naming import COLUMN, SAME, STANDARD_DEVIATION, Item, Naming
from gpt2np.tracing.contract import ModelConfig


def transformer_lens(config: ModelConfig) -> Naming:
    """The hooks of a HookedTransformer loaded without processing, in their order, without a batch axis."""
    naming, table = Naming(), config.architecture.sites
    for _, site, layer in table.expand(config.n_layer):
        name = site.dialect_name("transformer_lens", layer)
        if name is not None and "hook_" in name:
            form = COLUMN if name.endswith("hook_scale") else SAME  # [pos, 1] there
            naming.add(Item(name, site, layer, form))
        norm, _, statistic = site.name.rpartition(".")
        if statistic == "rstd":  # its inverse is the scale that stands beside hook_normalized
            beside = table[f"{norm}.normalized"].dialect_name("transformer_lens", layer) or ""
            scale = beside.replace("hook_normalized", "hook_scale")
            naming.add(Item(scale, site, layer, STANDARD_DEVIATION))
    return naming
