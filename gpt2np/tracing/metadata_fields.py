"""What a file says of the trace in it: parsed and checked field by field, before an array is touched."""

from typing import Any

from gpt2np.errors import ConfigError, TraceError, short
from gpt2np.json_fields import (
    OBJECT,
    TEXT,
    Kind,
    Table,
    check,
    fields_of,
    list_of,
    number,
    optional,
    or_null,
    parse_json,
    row,
    whole,
)
from gpt2np.tracing.contract import ModelConfig, parse_config

_END = or_null(whole(-(2**63)))

_CANDIDATE: Table = {"token": TEXT, "probability": number(0, 1 + 1e-6)}
PREDICTION = fields_of(
    {"token": TEXT, "token_id": whole(), "top_k_candidates": list_of(fields_of(_CANDIDATE, closed=False))},
    closed=False,
)

STOPPED_BY = ("eos", "stop", "length", "interrupt")
_GENERATION: Table = {
    "last_token_id": whole(),
    "last_token": TEXT,
    "text": TEXT,
    "stopped_by": Kind(" or ".join(STOPPED_BY), lambda x: type(x) is str and x in STOPPED_BY),
    "probabilities": list_of(or_null(number(0, 1 + 1e-6))),
    "sampling": OBJECT,
}

# What every trace says; what it says besides (seeds, digests, whatever comes later) must only be JSON.
_FIELDS: Table = {
    "config": OBJECT,
    "token_ids": Kind("a list of whole numbers", list_of(whole(-(2**63))).accepts),
    "tokens": optional(list_of(TEXT)),
    "prompt": optional(TEXT),
    "positions": row(_END, _END, _END),
    "dtype": Kind("float32 or float64", lambda x: x in ("float32", "float64")),
    "stored_dtype": optional(
        Kind("float16, float32 or float64", lambda x: x in ("float16", "float32", "float64"))
    ),
    "stop_at_layer": optional(whole()),
    "n_prompt": optional(whole(1)),
    "generation": optional(OBJECT),
    "n_parameters": optional(whole()),
    "edits": optional(list_of(TEXT)),
    "edits_told": optional(OBJECT),
    "gpt2np": optional(TEXT),
    "numpy": optional(TEXT),
    "model": optional(TEXT),
    "commit": optional(TEXT),
    "fingerprint": optional(TEXT),
    "digest": optional(TEXT),
    "keys": optional(TEXT),
    "predicted_next_token": optional(PREDICTION),
}


def parse_metadata(text: str, where: str, *schemas: str) -> dict[str, Any]:
    """The metadata of a file as an object, whose schema must be one of these.

    Raises:
        TraceError: it is no JSON as we write it, or says another schema.
    """
    content = parse_json(text, f"{where}: metadata 'gpt2np'", TraceError)
    schema = content.get("schema") if isinstance(content, dict) else content
    if not isinstance(content, dict) or schema not in schemas:
        raise TraceError(f"{where}: schema is {short(schema)}, expected {' or '.join(map(repr, schemas))}")
    return content


def check_metadata(metadata: Any, where: str) -> ModelConfig:
    """The config that the metadata of a trace hold, after a look at every field.

    Raises:
        TraceError: a field is missing or malformed, or two do not fit each other; names them.
    """
    check(metadata, _FIELDS, where, TraceError)
    try:
        config, _ = parse_config(metadata["config"], f"{where}: config")
    except ConfigError as error:
        raise TraceError(str(error)) from None
    ids, tokens, stop = (metadata.get(name) for name in ("token_ids", "tokens", "stop_at_layer"))
    if not ids or not all(0 <= i < config.vocab_size for i in ids):
        raise TraceError(f"{where}: token_ids must hold ids that are 0 to {config.vocab_size - 1}")
    if len(ids) > config.n_positions:
        raise TraceError(f"{where}: token_ids has {len(ids)} ids, but n_positions is {config.n_positions}")
    if tokens is not None and len(tokens) != len(ids):
        raise TraceError(f"{where}: tokens has {len(tokens)} strings, expected {len(ids)}")
    if stop is not None and stop > config.n_layer:
        raise TraceError(f"{where}: stop_at_layer is {stop}, expected 0 to {config.n_layer}")
    if (metadata.get("n_prompt") or 1) > len(ids):
        raise TraceError(f"{where}: n_prompt is {metadata['n_prompt']}, expected 1 to {len(ids)}")
    if metadata.get("generation") is not None:
        _check_generation(metadata, config, f"{where}: generation")
    return config


def _check_generation(metadata: dict[str, Any], config: ModelConfig, where: str) -> None:
    """Refuse facts of a generation that do not fit each other, or its tokens."""
    facts, n_prompt = metadata["generation"], metadata.get("n_prompt")
    check(facts, _GENERATION, where, TraceError)
    if n_prompt is None:
        raise TraceError(f"{where}: n_prompt, the length of its prompt, is missing beside it")
    if facts["last_token_id"] >= config.vocab_size:
        last = facts["last_token_id"]
        raise TraceError(f"{where}: last_token_id is {last}, expected 0 to {config.vocab_size - 1}")
    n, n_chosen = len(facts["probabilities"]), len(metadata["token_ids"]) + 1 - n_prompt
    if n != n_chosen:
        raise TraceError(f"{where}: probabilities has {n} numbers, expected {n_chosen}: one a chosen token")
    if len({p is None for p in facts["probabilities"]}) > 1:
        raise TraceError(f"{where}: probabilities has null beside numbers, expected all of one kind")
