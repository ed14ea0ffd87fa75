"""What Hugging Face's models are called with and these are not, and what to do instead."""

import functools
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

from gpt2np.errors import InputError

_TRACE = "use model.trace(prompt).to('hf'): logits, attentions, hidden_states, past_key_values"
_KEPT = "use generate(prompt, keep='*').finish(): attentions, hidden_states, past_key_values"
_PADDING = "there is no padding, and several prompts are a list, each as long as it is"
_FIRST = "give the prompt first, without a name: ids, a text, or `inputs` of a tokenizer without **"

OF_A_CALL = {
    "output_attentions": _TRACE,
    "output_hidden_states": _TRACE,
    "use_cache": _TRACE,
    "return_dict": _TRACE,
    "past_key_values": "model.generate(prompt, past=trace) goes on from a trace or a KV file",
    "position_ids": "positions count from 0",
    "attention_mask": _PADDING,
    "token_type_ids": "GPT-2 has no token types",
    "labels": "model.score(text).loss, or trace['loss']",
    "input_ids": _FIRST,
    "inputs_embeds": "model(prompt, edits={'embed': lambda x: ...}) puts something else there",
    "logits_to_keep": "model(prompt, last=True) gives the logits of the last position",
}
OF_GENERATE = OF_A_CALL | {
    "output_attentions": _KEPT,
    "output_hidden_states": _KEPT,
    "output_scores": "generate(..., ledger='full').finish().ledger has raw logits and what removed them",
    "output_logits": "generate(..., keep='logits').finish().trace['logits']",
    "return_dict_in_generate": "finish() returns prompt and response with all that was kept",
    "use_cache": "decoding always has a cache",
    "do_sample": "decoding is greedy unless temperature is given and above 0",
    "max_length": "max_new_tokens counts the new tokens only",
    "pad_token_id": _PADDING,
    "eos_token_id": "eos=ID, or eos=None: nothing ends the text",
    "stop_strings": "stop='text', or a list of texts",
    "num_return_sequences": "give the prompt several times in a list, with a list of seeds",
    "inputs": _FIRST,
}


P = ParamSpec("P")
R = TypeVar("R")


def answers(table: Mapping[str, str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A method that answers the arguments in a table by saying what to do instead, with an `InputError`."""

    def wrap(method: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(method)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            if name := next((name for name in kwargs if name in table), None):
                raise InputError(f"{name} is an argument of Hugging Face's: {table[name]}")
            return method(*args, **kwargs)

        return called

    return wrap
