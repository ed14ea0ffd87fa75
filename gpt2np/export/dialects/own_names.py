"""Our own names for a trace, as the table of sites has them."""

from gpt2np.export.dialects.naming import Item, Naming
from gpt2np.tracing.config import Config
from gpt2np.tracing.sites import expand


def own_names(config: Config) -> Naming:
    """The names of the table itself."""
    naming = Naming()
    naming.add(*(Item(name, site, layer) for name, site, layer in expand(config.n_layer)))
    return naming
