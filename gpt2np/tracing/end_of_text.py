"""Which tokens end a text, as `eos_token_id` of a config says it: one id, several, or none."""

from typing import Any

from gpt2np.errors import ConfigError, short


def end_of_text(value: Any) -> int | tuple[int, ...] | None:
    """What `eos_token_id` says: an id, several, or none; a list of one is that one, an empty one none.

    Raises:
        ConfigError: what was found.
    """
    ids = list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
    if any(isinstance(i, bool) or not isinstance(i, int) for i in ids):
        raise ConfigError(f"eos_token_id must be a whole number, a list of them, or null, not {short(value)}")
    ids = list(dict.fromkeys(ids))
    return tuple(ids) if len(ids) > 1 else ids[0] if ids else None


def ids_of(eos_token_id: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """All ids that end a text, of a value that `end_of_text` has given."""
    return (
        eos_token_id if isinstance(eos_token_id, tuple) else () if eos_token_id is None else (eos_token_id,)
    )
