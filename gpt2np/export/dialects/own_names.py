"""Our own names for a trace, as the table of sites has them."""

from gpt2np.export.dialects.naming import Item, Naming
from gpt2np.tracing.contract import ModelConfig


def own_names(config: ModelConfig) -> Naming:
    """The names of the table itself."""
    naming = Naming()
    naming.add(
        *(Item(name, site, layer) for name, site, layer in config.architecture.sites.expand(config.n_layer))
    )
    return naming
