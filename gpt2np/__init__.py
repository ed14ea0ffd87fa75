"""GPT-2 from scratch in NumPy, with every intermediate tensor recorded.

>>> import gpt2np
>>> model = gpt2np.load("tiny")  # or "gpt2", "gpt2-medium", a folder, a Hub id
>>> trace = model.trace("Elizabeth was")
>>> trace.top(1)  # the likeliest next token: (token, id, probability)
>>> trace["h.3.attn.pattern"]  # [head, query, key]; every site: trace.keys(), `gpt2np sites`
>>> trace["pattern", -1]  # the same of the last layer, by its short name
>>> gpt2np.view(trace, out="elizabeth.html")  # one page that shows the whole run
>>> model.generate("Elizabeth was", max_new_tokens=20, temperature=0.8, seed=1).finish().text
>>> gpt2np.analysis.lens.logit_lens(trace)  # and heads, attribution, patching, ...
>>> gpt2np.compare("dump.npz", model, "Elizabeth was")  # is another implementation right?

`help(gpt2np.Model.trace)` and `help(gpt2np.Model.generate)` list what can be asked for. On the command line:
`gpt2np --help`.
"""

TYPE_CHECKING = False  # as type checkers know it, without an import: a Ctrl-C in one would be loud
if TYPE_CHECKING:
    from gpt2np import analysis as analysis
    from gpt2np import lessons as lessons
    from gpt2np.architectures.gpt2.config import Config
    from gpt2np.checkpoints.config_file import read_config
    from gpt2np.errors import Gpt2npError
    from gpt2np.kv.extraction import GPT2KVCacheExtractor
    from gpt2np.loading import load
    from gpt2np.model import Model
    from gpt2np.reference.comparison import compare
    from gpt2np.tracing.plan import Plan
    from gpt2np.tracing.trace import Trace
    from gpt2np.viewer import view

__version__ = "0.1.0"
__all__ = [
    "Config",
    "GPT2KVCacheExtractor",
    "Gpt2npError",
    "Model",
    "Plan",
    "Trace",
    "compare",
    "load",
    "read_config",
    "view",
]

# What is imported when it is first used: starting fast is a feature.
_LATER = {
    "Config": "gpt2np.architectures.gpt2.config",
    "GPT2KVCacheExtractor": "gpt2np.kv.extraction",
    "Gpt2npError": "gpt2np.errors",
    "Model": "gpt2np.model",
    "Plan": "gpt2np.tracing.plan",
    "Trace": "gpt2np.tracing.trace",
    "compare": "gpt2np.reference.comparison",
    "load": "gpt2np.loading",
    "read_config": "gpt2np.checkpoints.config_file",
    "view": "gpt2np.viewer",
}


if not TYPE_CHECKING:  # for which a name that is not there is a mistake

    def __getattr__(name: str) -> object:
        """A name, or a module of the package, that is not imported until somebody asks for it."""
        import importlib

        if name in _LATER:
            found = globals()[name] = getattr(importlib.import_module(_LATER[name]), name)
            return found
        if not name.startswith("_"):
            try:
                return importlib.import_module(f"gpt2np.{name}")
            except ModuleNotFoundError as error:
                if error.name != f"gpt2np.{name}":
                    raise
        raise AttributeError(f"module 'gpt2np' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(
        [*__all__, "__doc__", "__file__", "__name__", "__path__", "__version__", "analysis", "lessons"]
    )
