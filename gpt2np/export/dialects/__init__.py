"""A trace under the names and in the shapes of another program: one file a program, and what all share."""

from gpt2np.export.dialect_names import NAMES
from gpt2np.export.dialects.batch import Batch
from gpt2np.export.dialects.dialect import Dialect
from gpt2np.export.dialects.reading import read_dialect
from gpt2np.export.dialects.writing import write_dialect

__all__ = ["NAMES", "Batch", "Dialect", "read_dialect", "write_dialect"]
