"""Special tokens in a prompt, tokens at the ends of a text, and ids that no token has, through a Model."""

import json

import numpy as np
import pytest
from support import tiny_checkpoint

import gpt2np
from gpt2np.analysis.circuits import token_effects, token_scores
from gpt2np.analysis.positions_and_tokens import token_id
from gpt2np.capture.prompt_set import Prompt, PromptSet
from gpt2np.capture.runs import Options, capture_prompts
from gpt2np.errors import InputError, TokenizerError
from gpt2np.kv import datasets
from gpt2np.kv.extraction import GPT2KVCacheExtractor, extract_to_file
from gpt2np.kv.resume import load_kv

END, END_ID = "<|endoftext|>", 299
TEXT = f"the{END}he"


def checkpoint(folder, **says):
    """The small checkpoint, with more positions, and what tokenizer_config.json says."""
    tiny_checkpoint.write(folder)
    tensors = tiny_checkpoint.tensors()
    positions = np.random.default_rng(0).normal(0, 0.5, (64, tiny_checkpoint.CONFIG["n_embd"]))
    tensors["transformer.wpe.weight"] = positions.astype("<f4")
    (folder / "model.safetensors").write_bytes(tiny_checkpoint.safetensors(tensors))
    (folder / "config.json").write_text(json.dumps(tiny_checkpoint.CONFIG | {"n_positions": 64}))
    (folder / "tokenizer_config.json").write_text(json.dumps(says))
    return folder


@pytest.fixture
def model(tmp_path):
    return gpt2np.load(checkpoint(tmp_path / "plain"))


@pytest.fixture
def bos(tmp_path):
    return gpt2np.load(checkpoint(tmp_path / "bos", add_bos_token=True))


def kv_ids(model, text, special, folder):
    path = folder / "kv.safetensors"
    extract_to_file(model, text, path, special=special)
    return load_kv(path, model).token_ids


IDS_OF = {  # how each function that takes a text comes to its ids
    "token_ids": lambda m, text, special, _: m.token_ids(text, special=special),
    "call": lambda m, text, special, _: [0] * len(m(text, special=special)),
    "trace": lambda m, text, special, _: m.trace(text, special=special).token_ids,
    "trace, several": lambda m, text, special, _: m.trace([text, "x"], special=special)[0].token_ids,
    "generate": lambda m, text, special, _: (
        m.generate(text, max_new_tokens=1, special=special, eos=None).finish().prompt.token_ids
    ),
    "score": lambda m, text, special, _: m.score(text, special=special).token_ids,
    "plan": lambda m, text, special, _: [0] * m.plan(text, special=special).length,
    "KV file": kv_ids,
    "KV dict": lambda m, text, special, _: (
        [0] * len(GPT2KVCacheExtractor(m).extract_kv_cache(text, special=special)["input_tokens"])
    ),
}


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("name", IDS_OF)
def test_a_special_token_in_a_text(model, bos, tmp_path, name, special):
    start, end = model.tokenizer.encode("the"), model.tokenizer.encode("he")
    plain = [*start, *model.tokenizer.encode(END), *end]
    expected = [*start, END_ID, *end] if special else plain
    assert expected == (model.token_ids(TEXT, special=special))
    for one, ids in ((model, expected), (bos, [END_ID, *expected])):
        found = list(IDS_OF[name](one, TEXT, special, tmp_path))
        assert found in (ids, [0] * len(ids))


def test_the_same_run_as_its_ids(model):
    ids = model.token_ids(TEXT, special=True)
    assert np.array_equal(model(TEXT, special=True), model(ids))
    assert model.trace(TEXT, special=True).prompt == TEXT
    assert np.array_equal(model.score(TEXT, special=True).losses, model.score(ids).losses, equal_nan=True)
    done = model.generate(TEXT, special=True, max_new_tokens=4, eos=None).finish()
    assert done.token_ids == model.generate(ids, max_new_tokens=4, eos=None).finish().token_ids


def test_which_special_token_a_text_holds(model):
    assert model.tokenizer.special_token_in(TEXT) == END
    assert model.tokenizer.special_token_in("<|endoftext") is None
    assert model.tokenizer.special_token_in("") is None


def test_the_old_name_is_gone(model):
    with pytest.raises(TypeError, match="allow_special"):
        model.tokenizer.encode(TEXT, allow_special=True)


def test_tokens_at_the_ends_belong_to_texts_and_not_to_pieces(bos):
    """A list of tokens, the rest of a text, and a token's own text get none."""
    pieces = bos.tokenizer.encode("the", ends=False)
    assert bos.tokenizer.encode("the") == [END_ID, *pieces]
    assert bos.token_ids("") == [END_ID]
    for circuit in (token_scores, token_effects):
        assert len(next(iter(circuit(bos, 0, 0, "thex").labels.values()))) == len(pieces) + 1
    with pytest.raises(InputError) as caught:
        token_id(bos, "xy")
    assert "it is several: |x|y|" in str(caught.value)
    assert bos.trace("the").tokens[0] == END


def test_what_goes_on_from_a_kv_file_has_no_second_start(bos, tmp_path):
    extract_to_file(bos, "the", tmp_path / "kv.safetensors")
    cache = load_kv(tmp_path / "kv.safetensors", bos)
    options = {"max_new_tokens": 3, "eos": None}
    assert cache.generate(" he", **options).finish().token_ids[:-3] == [*bos.token_ids("the"),
        *bos.token_ids(" he", ends=False)]  # fmt: skip
    with_special = cache.generate(TEXT, special=True, **options).finish()
    assert with_special.token_ids.count(END_ID) >= 2
    done = cache.generate(**options).finish()
    assert done.text == bos.generate("the", **options).finish().text


def test_a_dataset_knows_how_its_texts_were_read(model, tmp_path):
    folder = tmp_path / "data"
    list(datasets.write_dataset(model, datasets.texts([TEXT], model, special=True), folder))
    entries = list(datasets.write_dataset(model, datasets.texts([TEXT], model, special=True), folder))
    assert [(entry["tokens"], new) for entry, new in entries] == [
        (len(model.token_ids(TEXT, special=True)), False)
    ]
    ((entry, new),) = datasets.write_dataset(model, datasets.texts([TEXT], model), folder)
    assert (entry["file"], entry["tokens"], new) == ("kv_00001.json", len(model.token_ids(TEXT)), True)


def test_an_experiment_knows_how_its_texts_were_read(model, tmp_path):
    def capture(special, name):
        prompts = PromptSet("set", (Prompt(1, TEXT),))
        options = Options(2, special=special)
        return capture_prompts(model, prompts, tmp_path / name, options=options)[0][0]

    for special in (False, True):
        entry = capture(special, str(special))
        assert entry.prompt_tokens == len(model.token_ids(TEXT, special=special))
        assert entry.options.get("special", False) == special
        with pytest.raises(InputError, match="special"):
            capture(not special, str(special))


# -- ids that no token has ------------------------------------------------------------------------------


@pytest.fixture
def padded(tmp_path):
    """Three ids more than the vocabulary has."""
    folder = tiny_checkpoint.write(tmp_path / "padded")
    tensors = tiny_checkpoint.tensors()
    table = tensors["transformer.wte.weight"]
    tensors["transformer.wte.weight"] = np.concatenate([table, table[:3] * 1.1])
    (folder / "model.safetensors").write_bytes(tiny_checkpoint.safetensors(tensors))
    (folder / "config.json").write_text(json.dumps(tiny_checkpoint.CONFIG | {"vocab_size": 303}))
    return gpt2np.load(folder)


def test_such_ids_have_a_string_each_and_no_text(padded):
    ids = [*padded.token_ids("the"), 300, *padded.token_ids("é")[:1], 302, *padded.token_ids("é")[1:], 301]
    assert padded.decode(ids) == padded.tokenizer.decode(ids) == "theé"
    assert padded.tokenizer.decode_bytes(ids) == "theé".encode()
    tokens = padded.tokens(ids)
    assert tokens == padded.trace(ids).tokens == padded.tokenizer.tokens(ids)
    assert [tokens[ids.index(i)] for i in (300, 301, 302)] == ["<300>", "<301>", "<302>"]
    assert padded.tokenizer.tokens([302], marked=True) == ["<302>"]
    with pytest.raises(TokenizerError, match="no token has id 300"):
        padded.tokenizer.token_bytes(300)
    with pytest.raises(InputError, match="token id 303 is not one of 0 to 302"):
        padded.trace([303])


def test_a_generation_shows_what_it_decodes_to(padded):
    generation = padded.generate([72, 300, 73], max_new_tokens=12, temperature=5.0, seed=1, eos=None)
    shown = "".join(token.text for token in generation)
    done = generation.finish()
    assert done.prompt.text + shown == done.text == padded.decode(done.token_ids)
    assert [t for t in done.tokens if t.startswith("<3")] == [f"<{i}>" for i in done.token_ids if i > 299]


@pytest.mark.parametrize("wrong", [[-1], [True], [1.0], [[1]], "5"])
def test_what_is_no_id_is_refused_as_ever(padded, wrong):
    for call in (padded.tokenizer.decode, padded.tokenizer.tokens, padded.tokenizer.decode_bytes):
        with pytest.raises(TokenizerError):
            call(wrong)
