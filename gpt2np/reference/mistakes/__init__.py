"""The catalogue of known mistakes, each a small class."""

from types import ModuleType
from typing import Any

from gpt2np.reference.mistakes import (
    activations,
    cache,
    dropout,
    embedding,
    groups_and_caps,
    heads,
    layers,
    masks,
    norms,
    prompts,
    recorded,
    residual,
    rms_norms,
    rotation,
    scale,
    softmax,
    weights,
)
from gpt2np.reference.mistakes.base import At, Mistake, OtherPrompt, PromptMistake, Seen

__all__ = ["CATALOGUE", "KNOWN", "PROMPT_MISTAKES", "At", "Mistake", "OtherPrompt", "PromptMistake", "Seen"]


def _of(*modules: ModuleType) -> list[Any]:
    """The mistakes that modules define, in the order in which they stand there; rare ones last."""
    found = [c() for module in modules for c in vars(module).values() if "slug" in getattr(c, "__dict__", ())]
    return sorted(found, key=lambda mistake: getattr(mistake, "rare", False))


CATALOGUE: tuple[Mistake, ...] = tuple(
    _of(
        *(embedding, norms, heads, weights, scale, masks, softmax, cache, layers, residual, activations),
        *(rms_norms, rotation, groups_and_caps, recorded, dropout),
    )
)
PROMPT_MISTAKES: tuple[PromptMistake, ...] = tuple(_of(prompts))
KNOWN: tuple[Mistake | PromptMistake, ...] = (*CATALOGUE, *PROMPT_MISTAKES)
