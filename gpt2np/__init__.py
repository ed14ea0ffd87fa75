"""The GPT-2 that can be seen through: from scratch in NumPy, every intermediate tensor recorded."""

TYPE_CHECKING = False  # as type checkers know it, without an import: a Ctrl-C in one would be loud
if TYPE_CHECKING:
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
    return sorted({*globals(), *__all__})
