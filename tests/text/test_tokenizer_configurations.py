"""What a checkpoint's files say about its tokenizer, against what HF's AutoTokenizer makes of them."""

import functools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import needs, tiny_checkpoint

needs.module("transformers")

import transformers

from gpt2np.errors import TokenizerError
from gpt2np.text.tokenizer import TextStream, Tokenizer

transformers.logging.set_verbosity_error()

END, END_ID = "<|endoftext|>", 299
IDS, MERGES = tiny_checkpoint.vocabulary()
VOCAB = json.dumps(IDS)
TWO = {"vocab.json": VOCAB, "merges.txt": "#version: 0.2\n" + "\n".join(MERGES) + "\n"}
CONFIG = {"config.json": tiny_checkpoint.CONFIG}
GPT2, FAST = {"tokenizer_class": "GPT2Tokenizer"}, {"tokenizer_class": "PreTrainedTokenizerFast"}

Files = dict[str, Any]  # of a folder: text, or something to dump as JSON


def token(text: str, id: int, **flags: bool) -> dict[str, Any]:
    usual = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id, "content": text, **usual, "special": True, **flags}


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
WHOLE: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [token(END, END_ID)],
    "normalizer": None,
    "pre_tokenizer": BYTE_LEVEL,
    "post_processor": None,
    "decoder": BYTE_LEVEL,
    "model": {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
        "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": IDS, "merges": [merge.split(" ") for merge in MERGES],
    },
}  # fmt: skip


def template(before: list[str], after: list[str]) -> dict[str, Any]:
    def special(names: list[str]) -> list[Any]:
        return [{"SpecialToken": {"id": name, "type_id": 0}} for name in names]

    text = {"Sequence": {"id": "A", "type_id": 0}}
    known = {name: {"id": name, "ids": [IDS[name]], "tokens": [name]} for name in {*before, *after}}
    pair = [text, {"Sequence": {"id": "B", "type_id": 1}}]
    single = [*special(before), text, *special(after)]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": known}


def sequence(key: str, *steps: Any) -> dict[str, Any]:
    return {"type": "Sequence", key: list(steps)}


def split(pattern: str, **changes: Any) -> dict[str, Any]:
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return sequence("pretokenizers", cut | changes, BYTE_LEVEL | {"use_regex": False})


PREFIX = BYTE_LEVEL | {"add_prefix_space": True}
ROBERTA = {"type": "RobertaProcessing", "sep": ["a", 66], "cls": ["b", 67], "trim_offsets": True}
ROBERTA |= {"add_prefix_space": False}
BERT = {"type": "BertProcessing", "sep": ["a", 66], "cls": ["b", 67]}
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
NEWER = r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"

# What tokenizer_config.json says beside vocab.json and merges.txt, or beside a tokenizer.json.
SAYS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "bos": {"add_bos_token": True},
    "eos": {"add_eos_token": True},
    "bos and eos": {"add_bos_token": True, "add_eos_token": True},
    "bos, not": {"add_bos_token": False},
    "bos is another": {"add_bos_token": True, "bos_token": "Ġthe"},
    "bos is an object": {
        "add_bos_token": True,
        "bos_token": {"__type": "AddedToken", "content": "the", "lstrip": True},
    },
    "bos is null": {"add_bos_token": True, "bos_token": None},
    "eos is new": {"add_eos_token": True, "eos_token": "</s>"},
    "prefix space": {"add_prefix_space": True},
    "prefix space and bos": {"add_prefix_space": True, "add_bos_token": True},
    "a new padding token": {"pad_token": "[PAD]"},
    "extra tokens": {"extra_special_tokens": ["the", "<x>"]},
    "extra tokens by name": {"extra_special_tokens": {"image_token": "<x>"}},
    "additional tokens": {"additional_special_tokens": ["<x>"]},
    "a token of its own name": {"image_token": "<x>"},
    "a decoder of added tokens": {
        "added_tokens_decoder": {
            "299": {"content": END, "special": True},
            "300": {"content": "<x>", "lstrip": True, "special": False},
        }
    },
}
# What a tokenizer.json says otherwise than GPT-2's own.
CHANGES: dict[str, dict[str, Any]] = {
    "bos": {"post_processor": template([END], [])},
    "eos": {"post_processor": template([], [END])},
    "bos and eos": {"post_processor": template([END, "th"], [END])},
    "nothing at the ends": {"post_processor": template([], [])},
    "byte-level post-processor": {"post_processor": PREFIX},
    "post-processors": {"post_processor": sequence("processors", PREFIX, template([END], []))},
    "nested ends": {"post_processor": sequence("processors", ROBERTA, template([END], [END]))},
    "roberta": {"post_processor": ROBERTA},
    "bert": {"post_processor": BERT},
    "prefix space": {"pre_tokenizer": PREFIX},
    "a sequence of one": {"pre_tokenizer": sequence("pretokenizers", BYTE_LEVEL)},
    "a sequence of one, prefix space": {"pre_tokenizer": sequence("pretokenizers", PREFIX)},
    "cut by GPT-2's pattern": {"pre_tokenizer": split(WORDS)},
    "all but GPT-2's pattern removed": {
        "pre_tokenizer": split(WORDS, behavior="Removed", invert=True)
    },
    "GPT-2's pattern removed": {"pre_tokenizer": split(WORDS, behavior="Removed")},
    "cut by another pattern": {"pre_tokenizer": split(NEWER)},
    "not cut": {"pre_tokenizer": BYTE_LEVEL | {"use_regex": False}},
    "digits apart": {
        "pre_tokenizer": sequence("pretokenizers", {"type": "Digits", "individual_digits": True}, BYTE_LEVEL)
    },
    "no normalizers": {"normalizer": sequence("normalizers")},
    "no normalizers in a list": {"normalizer": sequence("normalizers", sequence("normalizers"))},
    "nfc": {"normalizer": {"type": "NFC"}},
    "lower case": {"normalizer": sequence("normalizers", {"type": "Lowercase"})},
    "prepend": {"normalizer": {"type": "Prepend", "prepend": "x"}},
    "replace": {"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}},
    "truncation": {
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    },
    "padding": {
        "padding": {"strategy": {"Fixed": 40}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "!"}
    },
    "whole words first": {"model": WHOLE["model"] | {"ignore_merges": True}},
    "bytes as a way out": {"model": WHOLE["model"] | {"byte_fallback": True}},
    "an unknown token": {"model": WHOLE["model"] | {"unk_token": END, "fuse_unk": True}},
    "no added tokens": {"added_tokens": []},
    "added tokens of all kinds": {
        "added_tokens": [token(END, 299), token("<x>", 300, lstrip=True), token("</s>", 301, rstrip=True),
                         token("ab", 302, special=False, single_word=True, normalized=True)]
    },
    "lower case, added tokens": {
        "normalizer": {"type": "Lowercase"},
        "added_tokens": [token(END, 299), token("THE", 300, special=False, normalized=True)],
    },
}  # fmt: skip

TABLE: dict[str, Files] = {
    "two files, a map of special tokens": TWO
    | CONFIG
    | {
        "tokenizer_config.json": {"add_bos_token": True},
        "special_tokens_map.json": {"bos_token": {"content": "th", "lstrip": False, "normalized": True}},
    },
    "two files, added tokens": TWO
    | CONFIG
    | {
        "added_tokens.json": {"<x>": 300, "[PAD]": 301},
        "tokenizer_config.json": {"pad_token": "[PAD]"},
    },
}
for _name, _said in SAYS.items():
    _says = {"tokenizer_config.json": _said}
    TABLE[f"two files, {_name}"] = TWO | CONFIG | _says
    TABLE[f"three files, {_name}"] = TWO | CONFIG | {"tokenizer.json": WHOLE} | _says
    TABLE[f"fast, {_name}"] = CONFIG | {"tokenizer.json": WHOLE, "tokenizer_config.json": FAST | _said}
for _name, _change in CHANGES.items():
    _whole = {"tokenizer.json": WHOLE | _change}
    TABLE[f"tokenizer.json alone, {_name}"] = _whole
    TABLE[f"tokenizer.json of a GPT-2, {_name}"] = CONFIG | _whole
    TABLE[f"GPT2Tokenizer, {_name}"] = _whole | {"tokenizer_config.json": GPT2}
    TABLE[f"PreTrainedTokenizerFast, {_name}"] = CONFIG | _whole | {"tokenizer_config.json": FAST}

BITS = [
    END,
    "<x>",
    "</s>",
    "[PAD]",
    "the",
    " the",
    "THE",
    "ab",
    " ab ",
    "  ",
    "\n",
    "é",
    "e\u0301",
    "12",
    "'s",
]
TEXTS = st.lists(st.sampled_from(BITS) | st.text(max_size=4), max_size=7).map("".join)


def write(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Ours and HF's tokenizer of a row of the table."""

    @functools.lru_cache(maxsize=1)
    def load(name: str) -> tuple[Tokenizer, Any]:
        folder = write(tmp_path_factory.mktemp("tokenizer"), TABLE[name])
        ours = Tokenizer.from_folder(folder)
        assert ours is not None
        return ours, transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)

    return load


@pytest.mark.every(3)
@pytest.mark.parametrize("name", TABLE)
def test_ids_and_texts_are_those_of_hf(both, name):
    ours, hf = both(name)

    @given(TEXTS)
    @settings(deadline=None, max_examples=15, database=None)
    def check(text: str) -> None:
        for special in (True, False):
            ids = hf(text, split_special_tokens=not special)["input_ids"]
            assert ours.encode(text, special=special) == ids
            inner = hf(text, split_special_tokens=not special, add_special_tokens=False)["input_ids"]
            assert ours.encode(text, special=special, ends=False) == inner
            assert ours.decode(ids) == hf.decode(ids)
            stream = TextStream(ours)
            assert "".join(map(stream.push, ids)) + stream.finish() == ours.decode(ids)

    check()


PASSED_OVER = [name for name in CHANGES if {"normalizer", "pre_tokenizer"} & CHANGES[name].keys()]


@pytest.mark.parametrize("name", PASSED_OVER)
def test_what_hf_passes_over_for_a_gpt2_is_noted(both, name):
    says_the_same = both(f"PreTrainedTokenizerFast, {name}")[0].encode("a1 e\u0301 A't") == both(
        f"GPT2Tokenizer, {name}"
    )[0].encode("a1 e\u0301 A't")
    note = both(f"GPT2Tokenizer, {name}")[0].note
    if name in ("a sequence of one", "cut by GPT-2's pattern", "no normalizers", "no normalizers in a list",
                "all but GPT-2's pattern removed"):  # fmt: skip
        assert says_the_same
        assert note is None
    else:
        assert "tokenizer.json: " in note
        assert "it is passed over" in note
    assert both(f"PreTrainedTokenizerFast, {name}")[0].note is None


def test_what_tokenizer_json_overrules_is_noted(both):
    for name, wish in (("bos", "add_bos_token"), ("bos and eos", "add_bos_token, add_eos_token")):
        assert f"tokenizer_config.json: {wish}: passed over" in both(f"three files, {name}")[0].note
        assert both(f"two files, {name}")[0].note is None
    assert "add_prefix_space: passed over" in both("fast, prefix space")[0].note
    assert both("three files, prefix space")[0].note is None


REFUSED: dict[str, tuple[str, Files]] = {
    "a flag that is none": ("add_bos_token must be true or false, not 'yes'", {"add_bos_token": "yes"}),
    "a prefix that is none": ("add_prefix_space must be true or false, not 1.0", {"add_prefix_space": 1.0}),
    "bos is no token": ("bos_token is 5, expected a token's text", {"bos_token": 5}),
    "bos is nothing": ("is empty", {"bos_token": ""}),
    "extra tokens are none": ("extra_special_tokens must be a list, not int", {"extra_special_tokens": 7}),
    "an extra token is none": (r"extra_special_tokens\[0\] is 7", {"extra_special_tokens": [7]}),
    "the class is no text": ("tokenizer_class is 5", {"tokenizer_class": 5}),
    "a class of its own": ("'QwenTokenizer', which needs a token", {"tokenizer_class": "QwenTokenizer"}),
    "eos is nowhere": ("add_eos_token asks for '<|endoftext|>', which is no token", {"add_eos_token": True}),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_wishes_that_no_file_may_have(tmp_path, case):
    message, says = REFUSED[case]
    files = TWO | {"tokenizer_config.json": says}
    if case == "eos is nowhere":
        files |= {"vocab.json": {piece: id for piece, id in IDS.items() if piece != END}}
    with pytest.raises(TokenizerError, match=message.replace("|", r"\|")) as caught:
        Tokenizer.from_folder(write(tmp_path, files))
    assert str(tmp_path / "tokenizer_config.json") in str(caught.value)


def test_pipes_and_marks(tmp_path):
    write(tmp_path, TWO)
    (tmp_path / "tokenizer_config.json").write_bytes(b"\xef\xbb\xbf" + b'{"add_bos_token": true}')
    ours = Tokenizer.from_folder(tmp_path)
    assert ours is not None
    assert ours.encode("the") == [END_ID, *ours.encode("the", ends=False)]
    (tmp_path / "tokenizer_config.json").unlink()
    os.mkfifo(tmp_path / "tokenizer_config.json")
    with pytest.raises(TokenizerError, match=r"tokenizer_config.json: expected a file"):
        Tokenizer.from_folder(tmp_path)
