"""The dialects that there are, by name."""

from gpt2np.errors import InputError, short
from gpt2np.export.dialect_names import NAMES
from gpt2np.export.dialects.extraction_guide import extraction_guide
from gpt2np.export.dialects.huggingface import huggingface
from gpt2np.export.dialects.llmc import llmc
from gpt2np.export.dialects.naming import Naming
from gpt2np.export.dialects.own_names import own_names
from gpt2np.export.dialects.transformer_lens import transformer_lens
from gpt2np.tracing.contract import ModelConfig

_NAMINGS = dict(zip(NAMES, (own_names, extraction_guide, huggingface, transformer_lens, llmc), strict=True))


def naming_of(dialect: str, config: ModelConfig) -> Naming:
    """The names of a dialect for a model.

    Raises:
        InputError: no such dialect.
    """
    if dialect not in NAMES:
        raise InputError(f"there is no dialect {short(dialect)}; known are {', '.join(NAMES)}")
    return _NAMINGS[dialect](config)
