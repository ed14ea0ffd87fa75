"""The GPT-2 that can be seen through: from scratch in NumPy, every intermediate tensor recorded."""

from gpt2np.config import Config
from gpt2np.errors import Gpt2npError
from gpt2np.model import Model, load
from gpt2np.plan import Plan
from gpt2np.trace import Trace

__version__ = "0.1.0"
__all__ = ["Config", "Gpt2npError", "Model", "Plan", "Trace", "load"]
