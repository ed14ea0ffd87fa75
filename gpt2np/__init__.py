"""The GPT-2 that can be seen through: from scratch in NumPy, every intermediate tensor recorded."""

from typing import TYPE_CHECKING, Any

from gpt2np.architectures.gpt2.config import Config
from gpt2np.checkpoints.config_file import read_config
from gpt2np.errors import Gpt2npError
from gpt2np.loading import load
from gpt2np.model import Model
from gpt2np.tracing.plan import Plan
from gpt2np.tracing.trace import Trace

if TYPE_CHECKING:
    from gpt2np.reference.comparison import compare
    from gpt2np.viewer import view

__version__ = "0.1.0"
__all__ = ["Config", "Gpt2npError", "Model", "Plan", "Trace", "compare", "load", "read_config", "view"]

# What is imported when it is first used: starting fast is a feature.
_LATER = {"compare": "gpt2np.reference.comparison", "view": "gpt2np.viewer"}


def __getattr__(name: str) -> Any:
    """A function that is not imported until somebody asks for it."""
    if name not in _LATER:
        raise AttributeError(f"module 'gpt2np' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LATER[name]), name)
