"""Makes models of transformers that compute in float32 wherever they run compute in float64. Needs torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch


class _Double:
    """The module `torch` as a file of transformers sees it, but for its name of single precision."""

    float32 = float = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@contextmanager
def true_double(modeling: ModuleType) -> Iterator[None]:
    """Inside, the lines of a modelling file that cast to float32 cast to float64."""
    single = torch.Tensor.float
    modeling.torch, torch.Tensor.float = _Double(), torch.Tensor.double
    try:
        yield
    finally:
        modeling.torch, torch.Tensor.float = torch, single
