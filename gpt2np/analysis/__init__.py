"""What can be computed from a trace and a model: lenses, attribution, circuits, statistics.

Each module is imported when it is first used: `gpt2np.analysis.lens.logit_lens(trace)`.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gpt2np.analysis import attribution as attribution
    from gpt2np.analysis import baseline_notebook as baseline_notebook
    from gpt2np.analysis import circuits as circuits
    from gpt2np.analysis import directions as directions
    from gpt2np.analysis import heads as heads
    from gpt2np.analysis import interventions as interventions
    from gpt2np.analysis import layer_norms as layer_norms
    from gpt2np.analysis import lens as lens
    from gpt2np.analysis import losses as losses
    from gpt2np.analysis import matrices as matrices
    from gpt2np.analysis import named_array as named_array
    from gpt2np.analysis import neurons as neurons
    from gpt2np.analysis import parameter_counts as parameter_counts
    from gpt2np.analysis import patching as patching
    from gpt2np.analysis import paths as paths
    from gpt2np.analysis import plot as plot
    from gpt2np.analysis import positions_and_tokens as positions_and_tokens
    from gpt2np.analysis import residual_stream as residual_stream
    from gpt2np.analysis import site_values as site_values
    from gpt2np.analysis import statistics as statistics
    from gpt2np.analysis import two_prompts as two_prompts

__all__ = [
    "attribution",
    "baseline_notebook",
    "circuits",
    "directions",
    "heads",
    "interventions",
    "layer_norms",
    "lens",
    "losses",
    "matrices",
    "named_array",
    "neurons",
    "parameter_counts",
    "patching",
    "paths",
    "plot",
    "positions_and_tokens",
    "residual_stream",
    "site_values",
    "statistics",
    "two_prompts",
]


if not TYPE_CHECKING:  # for which a name that is not there is a mistake

    def __getattr__(name: str) -> object:
        """A module that is not imported until somebody asks for it."""
        import importlib

        if name in __all__:
            return importlib.import_module(f"gpt2np.analysis.{name}")
        raise AttributeError(f"module 'gpt2np.analysis' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
