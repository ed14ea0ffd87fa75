"""The catalogue of known mistakes, each a small class."""

from gpt2np.reference.mistakes import attention, embedding, norms, projections, residual
from gpt2np.reference.mistakes.base import At, Mistake, OtherPrompt, PromptMistake

__all__ = ["CATALOGUE", "KNOWN", "PROMPT_MISTAKES", "At", "Mistake", "OtherPrompt", "PromptMistake"]


def _of(module: object, kind: type) -> list[type]:
    """The mistakes that a module defines, in the order in which they stand there."""
    found = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, kind)]
    return [c for c in found if "slug" in vars(c)]


CATALOGUE: tuple[Mistake, ...] = tuple(
    mistake()
    for module in (embedding, norms, projections, attention, residual)
    for mistake in _of(module, Mistake)
)
PROMPT_MISTAKES: tuple[PromptMistake, ...] = tuple(mistake() for mistake in _of(embedding, PromptMistake))
KNOWN: tuple[Mistake | PromptMistake, ...] = (*CATALOGUE, *PROMPT_MISTAKES)
