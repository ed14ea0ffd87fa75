"""Tokenizers that are not GPT-2's kind: through HF's `tokenizers`, or refused where that is missing."""

import copy
import json
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from support import command_line, tiny_checkpoint
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

import gpt2np
from gpt2np.errors import TokenizerError
from gpt2np.text.tokenizer import TextStream, Tokenizer

TEXTS = [
    "the cat sat on the mat. the other cats, they sat there too; 'twas über nice! 1234 naïve 東京 hello world"
] * 3


def wordpiece() -> tokenizers.Tokenizer:
    hf = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    hf.normalizer, hf.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    specials = ["[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=specials, show_progress=False)
    hf.train_from_iterator(TEXTS, trainer)
    hf.decoder, hf.post_processor = (
        decoders.WordPiece(),
        processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1)),
    )
    return hf


def unigram() -> tokenizers.Tokenizer:
    hf = tokenizers.Tokenizer(models.Unigram())
    hf.normalizer, hf.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    specials = ["<unk>", "<s>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=90, special_tokens=specials, unk_token="<unk>", show_progress=False
    )
    hf.train_from_iterator(TEXTS, trainer)
    hf.decoder = decoders.Metaspace()
    return hf


def sentencepiece() -> tokenizers.Tokenizer:
    """BPE on characters, spaces as `▁`, bytes as a way out, BOS: the form of Llama 2 and Gemma."""
    hf = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    hf.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=specials, show_progress=False)
    hf.train_from_iterator([text.replace("東京", "") for text in TEXTS], trainer)
    content = json.loads(hf.to_str())
    content["added_tokens"] = content["added_tokens"][:3]
    hf = tokenizers.Tokenizer.from_str(json.dumps(content))
    strip = decoders.Strip(" ", 1, 0)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
    hf.decoder = decoders.Sequence(steps)
    hf.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return hf


def byte_level_cut_otherwise() -> tokenizers.Tokenizer:
    """The form of Llama 3 and Qwen."""
    hf = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    words = Regex(r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    hf.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(words, "isolated"), bytes_only])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=alphabet, special_tokens=["<|begin|>"], show_progress=False
    )
    hf.train_from_iterator(TEXTS, trainer)
    hf.decoder = decoders.ByteLevel()
    return hf


def without_all_bytes() -> tokenizers.Tokenizer:
    """Byte-level BPE whose training saw only some bytes: HF leaves the others out."""
    hf = tokenizers.Tokenizer(models.BPE())
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["<|endoftext|>"], show_progress=False)
    hf.train_from_iterator(TEXTS, trainer)
    hf.decoder = decoders.ByteLevel()
    return hf


def word_level() -> tokenizers.Tokenizer:
    hf = tokenizers.Tokenizer(models.WordLevel(unk_token="[UNK]"))
    hf.pre_tokenizer = pre_tokenizers.Whitespace()
    hf.train_from_iterator(TEXTS, trainers.WordLevelTrainer(special_tokens=["[UNK]"], show_progress=False))
    return hf


def word_ends() -> tokenizers.Tokenizer:
    """BPE with `</w>`: the form of the first GPT and of CLIP."""
    hf = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<unk>"))
    hf.normalizer, hf.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=120, end_of_word_suffix="</w>", special_tokens=["<unk>"], show_progress=False
    )
    hf.train_from_iterator(TEXTS, trainer)
    hf.decoder = decoders.BPEDecoder("</w>")
    return hf


MAKERS = (
    wordpiece,
    unigram,
    sentencepiece,
    byte_level_cut_otherwise,
    without_all_bytes,
    word_level,
    word_ends,
)
TOKENS = {  # of "the cat 東京"
    wordpiece: ["[CLS]", " the", " cat", " 東", " 京", "[SEP]"],
    unigram: [" the", " cat", " ", "東", "京"],
    sentencepiece: ["<s>", " the cat", " ", r"\xe6", r"\x9d", r"\xb1", r"\xe4", r"\xba", r"\xac"],
    byte_level_cut_otherwise: ["the", " cat", " 東京"],
    without_all_bytes: ["the", " cat", " 東京"],
    word_level: ["the", "cat", "東京"],
    word_ends: ["the ", "cat ", "東京 "],
}
BITS = [
    "the cat",
    "  ",
    " hello",
    "WORLD",
    "\n",
    "über",
    "東京",
    "🙂",
    "12345",
    "<s>",
    "[CLS]",
    "<|begin|>",
    ".",
    "'s",
]


@pytest.fixture(scope="module", params=MAKERS, ids=lambda maker: maker.__name__)
def kind(request, tmp_path_factory):
    """A maker, its folder, HF's tokenizer and ours."""
    hf, folder = request.param(), tmp_path_factory.mktemp(request.param.__name__)
    (folder / "tokenizer.json").write_text(hf.to_str(), "utf-8")
    ours = Tokenizer.from_folder(folder)
    assert ours is not None
    return request.param, folder, hf, ours


def test_ids_texts_and_streams_are_those_of_tokenizers(kind):
    maker, _, hf, ours = kind
    copies = ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))

    @given(st.lists(st.sampled_from(BITS) | st.text(max_size=4), max_size=7).map("".join))
    @settings(deadline=None, max_examples=60, database=None)
    def check_text(text: str) -> None:
        for special in (True, False):
            hf.encode_special_tokens = not special
            ids = hf.encode(text).ids
            assert [one.encode(text, special=special) for one in copies] == [ids] * 3
            inner = hf.encode(text, add_special_tokens=False).ids
            assert ours.encode(text, special=special, ends=False) == inner

    @given(st.lists(st.integers(0, ours.n_vocab + 3), max_size=30))
    @settings(deadline=None, max_examples=60, database=None)
    def check_ids(ids: list[int]) -> None:
        expected = hf.decode(ids, skip_special_tokens=False)
        stream = TextStream(ours)
        assert "".join(map(stream.push, ids)) + stream.finish() == ours.decode(ids) == expected

    check_text()
    check_ids()
    assert ours.tokens(ours.encode("the cat 東京")) == TOKENS[maker]
    every = range(ours.n_vocab)
    assert ours.tokens(every, marked=True) == [hf.id_to_token(i) or f"<{i}>" for i in every]
    for piece in TOKENS[maker]:
        spelled = f"<0x{piece[2:].upper()}>" if piece.startswith("\\x") else None
        ids = [ours.find_id(piece)] if spelled is None else [hf.token_to_id(spelled)]
        assert ours.tokens(ids) == [piece]
    if maker is sentencepiece:
        assert ours.find_id("a") == hf.token_to_id("a") != hf.token_to_id("<0x61>")


def test_a_long_stream(kind):
    *_, ours = kind
    draw = random.Random(0)
    ids = [draw.randrange(ours.n_vocab) for _ in range(600)]
    stream = TextStream(ours)
    assert "".join(map(stream.push, ids)) + stream.finish() == ours.decode(ids)


PROBE = """
import sys
from pathlib import Path
if sys.argv[2] == "without":
    sys.modules["tokenizers"] = None
from gpt2np.text.tokenizer import Tokenizer
print(Tokenizer.from_folder(Path(sys.argv[1])).encode("the cat"))
print("tokenizers" in sys.modules)
"""


def probe(folder: Path, how: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROBE, str(folder), how]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_without_tokenizers_it_is_refused_and_the_extra_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text(wordpiece().to_str(), "utf-8")
    done = probe(tmp_path, "without")
    message = done.stderr.splitlines()[-1].removeprefix("gpt2np.errors.MissingExtraError: ")
    assert message.startswith(f"{tmp_path}/tokenizer.json: normalizer is {{'type': 'BertNormalizer', ")
    assert message.endswith(
        "expected None: not GPT-2's tokenizer. HF's tokenizers can run it: pip install 'gpt2np[tokenizers]'"
    )


def test_gpt2s_own_kind_never_imports_tokenizers(tmp_path):
    done = probe(tiny_checkpoint.write(tmp_path / "model"), "with")
    assert done.stdout.splitlines()[1] == "False", done.stderr


# -- through a model ------------------------------------------------------------------------------------


@pytest.fixture(params=[sentencepiece, wordpiece, byte_level_cut_otherwise], ids=lambda maker: maker.__name__)
def model(request, tmp_path):
    """A model of 450 tokens, more than the vocabulary has."""
    config = tiny_checkpoint.CONFIG | {"tokenizer_class": "PreTrainedTokenizerFast", "vocab_size": 450}
    tensors = tiny_checkpoint.tensors()
    table = np.random.default_rng(0).normal(0, 0.5, (450, config["n_embd"]))
    tensors["transformer.wte.weight"] = table.astype("<f4")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(tiny_checkpoint.safetensors(tensors))
    (tmp_path / "tokenizer.json").write_text(request.param().to_str(), "utf-8")
    return gpt2np.load(tmp_path)


def test_a_generation_reads_as_one_decoded_text(model):
    text = "the cat" if model.tokenizer.find_id("<s>") is None else "the"
    generation = model.generate(text, max_new_tokens=8, temperature=1.0, seed=3, eos=None)
    streamed = "".join(token.text for token in generation)
    done = generation.finish()
    assert done.text == text + streamed
    n = done.n_prompt
    whole, start = model.tokenizer.decode(done.token_ids), model.tokenizer.decode(done.token_ids[:n])
    assert streamed == whole[len(start) :]
    assert len(done.tokens) == n + 8


def test_verbs_take_its_texts(model, capsys, tmp_path):
    tokenizer, text = model.tokenizer, "the cat"
    name, (first, second) = model.checkpoint.folder, tokenizer.encode("cat hello", ends=False)[:2]
    for argv in (
        ["trace", text],
        ["lens", text, "--token", tokenizer.tokens([first])[0]],
        ["heads", text, "--token", first, "--against", second],
        ["stats", text],
        ["circuits", text, "--head", "0.0"],
        ["generate", text, "--max-new-tokens", 3, "--stop", "z"],
        ["tokenize", text],
        ["kv", "extract", text, "--out", tmp_path / "kv.json"],
        ["view", text, "--out", tmp_path / "page.html", "--no-open"],
    ):
        code, out, err = command_line.run(capsys, *argv, "--model", name)
        assert code == 0, (argv, err)
        if "z" not in argv and argv[0] in ("trace", "tokenize"):
            assert "cat" in out
    assert json.loads((tmp_path / "kv.json").read_text())["input_tokens"] == tokenizer.tokens(
        tokenizer.encode(text)
    )


def test_ids_run_where_the_vocabulary_cannot(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    again = gpt2np.load(model.checkpoint.folder)
    assert again.trace([5, 6, 7]).top(1)[0][0].startswith("<")
    assert again.decode([5, 6]) == "<5><6>"
    with pytest.raises(TokenizerError, match=r"gpt2np\[tokenizers\]"):
        again.trace("the cat")


def test_verbs_run_ids_where_the_vocabulary_cannot(model, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    name = model.checkpoint.folder
    for argv in (
        ["info"],
        ["trace", "--tokens", "5,6"],
        ["generate", "--tokens", "5", "--max-new-tokens", 2],
    ):
        assert command_line.run(capsys, *argv, "--model", name)[0] == 0
    code, out, err = command_line.run(capsys, "trace", "the cat", "--model", name)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].endswith("pip install 'gpt2np[tokenizers]'")
