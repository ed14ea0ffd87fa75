"""A generation from its saved trace, whose metadata hold what the trace has no position for.

The last token was chosen and never fed, so nothing was recorded of it. Its id and text, the text of prompt
and response, why it ended, and how every token was chosen are the field `generation` of the metadata.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from gpt2np.errors import InputError, TraceError, short
from gpt2np.generation.generated import Generated
from gpt2np.generation.options import sampling_options
from gpt2np.tracing.trace import Trace


def generation_metadata(
    last: tuple[int, str], text: str, stopped_by: str, probabilities: Sequence[float], sampling: Any
) -> dict[str, Any]:
    """Return the metadata of a generation's trace; `last` is id and text of the last token.

    `n_prompt`, the length of the prompt, stands beside it.
    """
    return {
        "last_token_id": last[0],
        "last_token": last[1],
        "text": text,
        "stopped_by": stopped_by,
        "probabilities": [None if math.isnan(p) else p for p in probabilities],  # NaN: beam search
        "sampling": asdict(sampling),
    }


def is_whole_generation(trace: Trace) -> bool:
    """Return whether it is a generation's trace that knows its last token; those of 0.1.0 do not."""
    return trace.metadata.get("generation") is not None and trace.metadata.get("n_prompt") is not None


def saved_generation(trace: Trace) -> Generated:
    """Return the generation that a trace was recorded in, without the ledger.

    Raises:
        TraceError: the trace is of a text, or of a generation that was saved by a version which did not keep
            the last token.

    Example:
        >>> saved_generation(Trace.open("g.safetensors")).text
    """
    if trace.metadata.get("n_prompt") is None:
        raise TraceError(f"{short(trace)} is of a text that was read, not of a generation")
    if not is_whole_generation(trace):
        raise TraceError(
            f"{short(trace)} does not have the last token of its generation, which an older version did not "
            "keep: generate it again"
        )
    facts, n_prompt = trace.metadata["generation"], trace.metadata["n_prompt"]
    try:
        sampling = sampling_options(facts["sampling"])
    except InputError as error:
        raise TraceError(f"{short(trace)}: generation: sampling: {error}") from None
    return Generated(
        token_ids=[*trace.token_ids, facts["last_token_id"]],
        tokens=[*trace.tokens, facts["last_token"]],
        text=facts["text"],
        stopped_by=facts["stopped_by"],
        trace=trace,
        n_prompt=n_prompt,
        prompt_text=trace.prompt or "",
        probabilities=[math.nan if p is None else p for p in facts["probabilities"]],
        ledger=[],
        sampling=sampling,
    )
