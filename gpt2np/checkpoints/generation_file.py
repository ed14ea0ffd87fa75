"""`generation_config.json`: which tokens end a text. How they are chosen is left to the caller."""

import os
from pathlib import Path
from typing import Any

from gpt2np.errors import CheckpointError, ConfigError
from gpt2np.files import read_json
from gpt2np.tracing import config_keys

# Options of choosing tokens, with the values that change nothing; None never does.
_SAMPLING: dict[str, tuple[Any, ...]] = {
    "do_sample": (False,), "temperature": (1.0,), "top_k": (0,), "top_p": (1.0,), "min_p": (0.0,),
    "typical_p": (1.0,), "epsilon_cutoff": (0.0,), "eta_cutoff": (0.0,), "top_h": (1.0,),
    "repetition_penalty": (1.0,), "encoder_repetition_penalty": (1.0,), "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,), "bad_words_ids": ([],), "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],), "forced_bos_token_id": (), "forced_eos_token_id": (),
    "sequence_bias": ({},), "exponential_decay_length_penalty": (), "renormalize_logits": (False,),
    "guidance_scale": (1.0,), "penalty_alpha": (0.0,), "dola_layers": (), "num_beams": (1,),
    "num_beam_groups": (1,), "diversity_penalty": (0.0,), "length_penalty": (1.0,),
    "early_stopping": (False,), "constraints": ([],), "force_words_ids": ([],),
    "num_return_sequences": (1,), "max_length": (20,), "max_new_tokens": (), "min_length": (0,),
    "min_new_tokens": (0,), "max_time": (), "stop_strings": ([], ""), "remove_invalid_values": (False,),
    "watermarking_config": (), "prompt_lookup_num_tokens": (),
}  # fmt: skip


def read_generation_file(folder: Path) -> tuple[tuple[int, ...], list[str]]:
    """The ids that a folder's `generation_config.json` ends a text with, and a note on what is ignored.

    Raises:
        CheckpointError: it is malformed; names the file and the field.
    """
    path = folder / "generation_config.json"
    if not os.path.lexists(path):
        return (), []
    content = read_json(path, CheckpointError)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(content).__name__}")
    try:
        ends = config_keys.ids_of(config_keys.end_of_text(content.get("eos_token_id")))
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    ignored = [
        key
        for key, harmless in _SAMPLING.items()
        if content.get(key) is not None and content[key] not in harmless
    ]
    if not ignored:
        return ends, []
    return ends, [f"{path}: {', '.join(ignored)} ignored: how tokens are chosen is for the caller to say"]
