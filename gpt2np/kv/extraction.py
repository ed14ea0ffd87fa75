"""The KV cache of a text as JSON: extraction, and writing as a stream.

    {"model": ..., "input_text": ..., "input_tokens": [...], "predicted_next_token": {...},
     "kv_cache": {"layer_0": {"head_0": {"tokens": [{"token_idx": 0, "key": [...], "value": [...]}, ...]}}},
     "metadata": {"n_layers": ..., "n_heads": ..., "d_head": ..., "sequence_length": ...}}

To the document's keys come `schema`, `input_token_ids`, the model's `fingerprint`, and a `digest` of all
keys and values. Of a model that is no GPT-2 the metadata also say how many heads keys and values have
(`n_kv_heads`: `head_0` and so on are those) and what the `keys` are, such as "as computed".
"""

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from gpt2np.checkpoints.checkpoint import default_name
from gpt2np.errors import InputError, TraceError, short, whole_number
from gpt2np.kv.queries import KV, check_coordinate
from gpt2np.kv.reading import KEYS, SCHEMA, Positions, as_json, as_positions
from gpt2np.loading import load
from gpt2np.model import Model
from gpt2np.outputs import check_not_read, whole_file
from gpt2np.text.prompts import Prompt
from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.derived import stored_for
from gpt2np.tracing.plan import Plan
from gpt2np.tracing.trace import Trace
from gpt2np.tracing.trace_metadata import run_metadata

SAMPLE_PROMPTS = Path(__file__).parent / "sample_prompts.txt"
TOLERANCE = 1e-3  # between a number in a file and the same computed again: other machines round otherwise


class GPT2KVCacheExtractor:
    """Extracts the keys and values of a text as the dict of the document "GPT-2 KV Cache Extractor".

    Example:
        >>> extractor = GPT2KVCacheExtractor("tiny")
        >>> result = extractor.extract_kv_cache("Elizabeth was")
        >>> result["input_tokens"]
        ['E', 'lizabeth', ' was']
        >>> len(extractor.get_coordinate_kv(result, layer=0, head=0, token=0)["key"])
        48
    """

    def __init__(self, model_name: "str | PathLike[str] | Model | None" = None) -> None:
        """Takes a name, a folder or a Model; without one `$GPT2NP_MODEL`, else `tiny`, with a warning.

        Raises:
            InputError: it is something else. As `gpt2np.load` where the model cannot be loaded.
        """
        if isinstance(model_name, Model):
            self.model = model_name
        elif not isinstance(model_name, str | PathLike | None):
            raise InputError(f"model_name must be a name, a folder or a Model, not {short(model_name)}")
        else:
            self.model = load(default_name() if model_name is None else model_name)
            if model_name is None and not os.environ.get("GPT2NP_MODEL"):
                note = "no model given: this is tiny; the real GPT-2 is GPT2KVCacheExtractor('gpt2')"
                warnings.warn(note, stacklevel=2)

    def __repr__(self) -> str:
        return f"<GPT2KVCacheExtractor of {self.model!r}>"

    def extract_kv_cache(self, text: Prompt, top_k: int = 5, *, special: bool = False) -> dict[str, Any]:
        """Run a text or token ids and return its dict; the lists of tokens in it are views of one trace.

        `special` is that of `Model.token_ids`.

        Raises:
            InputError: the text is empty, longer than the context or no text, or `top_k` is no number from 1.
        """
        whole_number("top_k", top_k, 1)
        text = text if isinstance(text, str) else self.model.token_ids(text)
        trace = self.model.trace(text, keep=keys_and_values(self.model.config), special=special)
        kv = KV.of(trace, predicted(trace, top_k))
        kv = replace(kv, digest=kv.computed_digest())
        return document(kv, kv.text if isinstance(text, str) else self.model.decode(trace.token_ids))

    def save_to_json(self, result: dict[str, Any], path: str | PathLike[str]) -> None:
        """Write such a dict, or one that `json.load` read; at most 9 digits restore float32 exactly.

        Raises:
            InputError: it is another dict, or the file cannot be written; nothing is left behind.
        """
        write_json(result, path)

    def get_coordinate_kv(self, result: dict[str, Any], layer: int, head: int, token: int) -> dict[str, Any]:
        """Return key and value [d_head] at a coordinate, of such a dict or of one read by `json.load`.

        Raises:
            InputError: there is no such layer, head or token, or it is another dict.
        """
        _check_result(result, ("input_tokens", "kv_cache"))
        check_coordinate("layer", layer, len(result["kv_cache"]))
        heads = result["kv_cache"][f"layer_{layer}"]
        check_coordinate("head", head, len(heads))
        tokens = heads[f"head_{head}"]["tokens"]
        check_coordinate("token", token, len(tokens))
        found = tokens[token]
        if not isinstance(found, dict) or not {"key", "value"} <= found.keys():
            where = f"kv_cache.layer_{layer}.head_{head}.tokens[{token}]"
            raise InputError(f"{where}: expected token_idx, key and value, found {short(found)}")
        return {
            "layer": layer,
            "head": head,
            "token_idx": token,
            "token": result["input_tokens"][token],
            "key": found["key"],
            "value": found["value"],
        }


def _check_result(result: Any, keys: Sequence[str]) -> None:
    """Refuse what is not document 003's dict, or lacks some of its keys.

    Raises:
        InputError: says which key, and what was found there.
    """
    if not isinstance(result, dict):
        raise InputError(f"expected the dict of extract_kv_cache, found {short(result)}")
    for key in keys:
        if key not in result:
            raise InputError(f"expected the dict of extract_kv_cache, found one without {short(key)}")
    tokens = result["input_tokens"]
    if not isinstance(tokens, list):
        raise InputError(f"input_tokens: expected a list of texts, found {short(tokens)}")
    for layer, heads in enumerate(_numbered(result["kv_cache"], "kv_cache", "layer")):
        where = f"kv_cache.layer_{layer}"
        for head, entry in enumerate(_numbered(heads, where, "head")):
            found = entry.get("tokens") if isinstance(entry, dict) else entry
            if not isinstance(found, list) or len(found) != len(tokens):
                place = f"{where}.head_{head}.tokens"
                raise InputError(f"{place}: expected {len(tokens)} entries, found {short(found)}")


def _numbered(given: Any, where: str, kind: str) -> list[Any]:
    """The values of `kind_0`, `kind_1` and so on, which must be all there is."""
    names = [f"{kind}_{i}" for i in range(len(given))] if isinstance(given, dict) else []
    if not names or given.keys() != set(names):
        found = list(given) if isinstance(given, dict) else given
        raise InputError(f"{where}: expected {kind}_0 and so on, found {short(found)}")
    return [given[name] for name in names]


def keys_and_values(config: ModelConfig) -> list[str]:
    """Return the stored sites of a layer that keys and values are read from."""
    names = [name for site in config.architecture.cache for name in stored_for(config, site, 0)]
    return list(dict.fromkeys(name.removeprefix("h.0.") for name in names))


def predicted(trace: Trace, top_k: int) -> dict[str, Any]:
    """`predicted_next_token`: the likeliest, and the `top_k` likeliest with their probabilities."""
    top = trace.top(top_k)
    return {
        "token": top[0][0],
        "token_id": top[0][1],
        "top_k_candidates": [{"token": token, "probability": p} for token, _, p in top],
    }


def document(kv: KV, text: str | None) -> dict[str, Any]:
    """Return the document's dict; the tokens of each head are made when they are read."""
    return {
        "schema": SCHEMA,
        "model": kv.model,
        "fingerprint": kv.fingerprint,
        "digest": kv.digest,
        "input_text": text,
        "input_tokens": kv.tokens,
        "input_token_ids": kv.token_ids,
        "predicted_next_token": kv.prediction,
        "kv_cache": {
            f"layer_{layer}": {
                f"head_{head}": {"tokens": Positions(keys[:, head], values[:, head])}
                for head in range(kv.n_head)
            }
            for layer, (keys, values) in enumerate(kv.layers)
        },
        "metadata": {
            "n_layers": kv.n_layer,
            "n_heads": kv.n_query_head or kv.n_head,
            "d_head": kv.d_head,
            "sequence_length": len(kv.tokens),
            **of_keys(kv),
        },
    }


def said_by(kv: KV) -> dict[str, Any]:
    """Return the document's dict without keys and values, and without what the file does not say."""
    facts = document(kv, kv.text) | {"schema": kv.schema}
    del facts["kv_cache"]
    unsaid = [name for name in ("schema", "fingerprint", "digest") if facts[name] is None]
    unsaid += [] if kv.token_ids else ["input_token_ids"]
    return {name: fact for name, fact in facts.items() if name not in unsaid}


def of_keys(kv: KV) -> dict[str, Any]:
    """Return what a file says about its keys beyond the document: nothing for a GPT-2."""
    return {} if kv.keys is None else {"n_kv_heads": kv.n_head, "keys": kv.keys}


def write_json(result: dict[str, Any], path: str | PathLike[str]) -> None:
    """Write the document's dict as a stream, one layer at a time.

    Raises:
        InputError: the file cannot be written, the dict is another one, or holds what JSON cannot; nothing is
            left behind.
    """
    if not Path(path).name:
        raise InputError(f"{path}: is not a file name")
    _check_result(result, KEYS)
    try:
        with whole_file(path) as file:
            file.writelines(_text(result))
            file.write("\n")
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: the result cannot be written as JSON ({error})") from None


def _text(value: Any) -> Iterator[str]:
    """JSON text, piece by piece; the keys of a dict on lines of their own."""
    positions = as_positions(value)
    if positions is not None:
        yield from positions.to_json()
    elif isinstance(value, dict) and value:
        heads = _heads(value)
        texts = as_json(heads) if heads else None
        for i, (key, item) in enumerate(value.items()):
            yield ("{" if i == 0 else ",\n") + json.dumps(key, ensure_ascii=False) + ": "
            if texts is None:
                yield from _text(item)
            else:
                yield from ('{"tokens": ', next(texts), "}")
        yield "}"
    else:
        yield json.dumps(value, ensure_ascii=False, allow_nan=False)


def _heads(layer: dict[str, Any]) -> list[Positions]:
    """The tokens of a layer's heads; empty where it is no layer, or its heads are of several shapes."""
    found: list[Positions] = []
    for head in layer.values():
        tokens = as_positions(head["tokens"]) if isinstance(head, dict) and [*head] == ["tokens"] else None
        if tokens is None or (found and tokens.shape != found[0].shape):
            return []
        found.append(tokens)
    return found


def extract_to_file(
    model: Model, prompt: Prompt, path: str | PathLike[str], top_k: int = 5, *, special: bool = False
) -> dict[str, Any]:
    """Run a prompt and write its keys and values, by suffix as JSON or as a trace; what both say but these.

    `special` is that of `Model.token_ids`.

    Raises:
        InputError, TraceError: the prompt cannot be run, or the file not be written.
    """
    check_suffix(path)
    check_not_read(path, model.checkpoint.source_files())
    whole_number("top_k", top_k, 1)
    keep = keys_and_values(model.config)
    if Path(path).suffix == ".safetensors":
        keep = list(model.config.architecture.cache)
    trace = model.trace(prompt, keep=keep, special=special)
    return trace_to_file(trace, path, top_k)


def trace_to_file(trace: Trace, path: str | PathLike[str], top_k: int = 5) -> dict[str, Any]:
    """Write keys and values of a trace with its model, such as a saved generation; returns the other facts.

    The predicted token is not in the file if the trace has neither logits nor what they are computed from.

    Raises:
        InputError: the file cannot be written.
        TraceError: the trace lacks some keys or values, or was kept in float16.
    """
    check_suffix(path)
    try:
        prediction = predicted(trace, top_k)
    except TraceError:
        prediction = None
    kv = KV.of(trace, prediction)
    if not kv.exact:
        raise TraceError("the trace was kept in float16, but a KV file needs float32: keep it in float32")
    text = trace.prompt if "n_prompt" not in trace.metadata else None
    if text is None:
        text = "".join(trace.tokens) if trace.model is None else trace.model.decode(trace.token_ids)
    edited = bool(trace.metadata.get("edits"))  # then it is not what the model of this fingerprint computes
    kv = replace(kv, digest=kv.computed_digest(), fingerprint=None if edited else kv.fingerprint)
    facts = document(kv, text)
    if Path(path).suffix == ".json":
        write_json(facts, path)
    else:
        _only_keys_and_values(trace, kv, text).save(Path(path))
    del facts["kv_cache"]
    return facts


def _only_keys_and_values(trace: Trace, kv: KV, text: str) -> Trace:
    """The trace as a run of the whole text that kept nothing else, with what a KV file says of itself."""
    keep = list(trace.config.architecture.cache)
    plan = Plan(trace.config, trace.plan.length, keep, trace.plan.dtype.name)
    arrays = {entry.name: trace[entry.name] for entry in plan.entries}
    metadata = {key: value for key, value in trace.metadata.items() if key not in ("n_prompt", "generation")}
    metadata |= run_metadata(plan, trace.token_ids, trace.tokens, prompt=text, digest=kv.digest)
    metadata |= {"predicted_next_token": kv.prediction, **of_keys(kv)}
    return Trace(plan, arrays, trace.token_ids, metadata, trace.model)


def check_suffix(path: str | PathLike[str]) -> None:
    """Refuse a file name that does not say which format is meant."""
    if Path(path).suffix not in (".json", ".safetensors"):
        raise InputError(f"{path}: the name must end in .json or .safetensors, which says the format")
