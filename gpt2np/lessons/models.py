"""The model that lessons run: in float64, so that the numbers agree on every machine; and the one prompt."""

import functools
import warnings

import gpt2np
from gpt2np.errors import Gpt2npError
from gpt2np.model import Model
from gpt2np.tracing.trace import Trace

PROMPT = "Lord Tamber spoke; and then Lord Tam"
SECOND = "Doctor Vesh is here. Send Doctor V"  # for what the first one cannot show


@functools.cache
def model_of_lessons(name: str = "tiny") -> Model:
    """The model by a name that `load` knows, in float64."""
    return gpt2np.load(name, dtype="float64")


@functools.lru_cache(maxsize=16)
def run_of(model: Model, prompt: str) -> Trace:
    """A prompt's run, with every site; computed once."""
    return model.trace(prompt)


def available(name: str) -> bool:
    """Return whether a model can be loaded without downloading anything.

    Example:
        >>> available("tiny")
        True
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the Hub's library about progress bars, in a notebook
            gpt2np.load(name, local_files_only=True)
    except Gpt2npError:
        return False
    return True
