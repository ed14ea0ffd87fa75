"""Holds somebody else's tensors against ours, and says which step is wrong and why."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt2np.reference.step_check import StepVerdict, check_step

__all__ = ["StepVerdict", "check_step"]


def __getattr__(name: str) -> Any:
    """What is imported when it is first used: starting fast is a feature."""
    if name not in __all__:
        raise AttributeError(f"module 'gpt2np.reference' has no attribute {name!r}")
    from gpt2np.reference import step_check

    return getattr(step_check, name)
