import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2np.errors import TokenizerError
from gpt2np.text.tokenizer import TextStream, Tokenizer
from gpt2np.text.vocabulary import byte_characters

TEXT = (
    "the cat sat on the mat. the other cats, they sat there too; 'twas über—nice! 1234 naïve cafés 東京 🙂\n"
)
CHARS = byte_characters()


def real_folder() -> Path:
    name = os.environ.get("GPT2NP_GPT2_VOCAB")
    if not name:
        pytest.skip("GPT2NP_GPT2_VOCAB is not set: it names a folder with GPT-2's vocab.json and merges.txt")
    return Path(name)


@pytest.fixture(scope="module")
def gpt2() -> Tokenizer:
    tokenizer = Tokenizer.from_folder(real_folder())
    assert tokenizer is not None
    return tokenizer


def write(folder: Path, ids: object, merges: object) -> Path:
    """A checkpoint folder with this vocab.json and merges.txt, each text, bytes or something to dump."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(merges, list):
        merges = "".join(f"{line}\n" for line in merges)
    for name, content in (("vocab.json", ids), ("merges.txt", merges)):
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else json.dumps(content)).encode()
        (folder / name).write_bytes(content)
    return folder


def small_vocab(merges: list[str]) -> dict[str, int]:
    pieces = [*CHARS, *dict.fromkeys(merge.replace(" ", "") for merge in merges)]
    return {piece: id for id, piece in enumerate(pieces)}


def load(folder: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer is not None
    return tokenizer


def trained(folder: Path, specials: list[str]) -> tokenizers.Tokenizer:
    """A vocabulary from HF's own trainer, which numbers special tokens before bytes."""
    hf = tokenizers.Tokenizer(tokenizers.models.BPE())
    hf.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=specials,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    hf.train_from_iterator([TEXT, TEXT.title(), "aaaaaaaa aaa aaaaa banana bananas " * 3], trainer)
    folder.mkdir(exist_ok=True)
    hf.model.save(str(folder))
    return hf


def fuzz(count: int, seed: int) -> list[str]:
    """Texts with everything that has ever broken a tokenizer: spaces, marks, scripts, controls, emoji."""
    draw = random.Random(seed)
    ranges = [
        (32, 127),
        (32, 127),
        (97, 123),
        (0, 33),
        (128, 592),
        (768, 880),
        (0x600, 0x700),
        (0x900, 0x980),
    ]
    ranges += [(0x2000, 0x2070), (0x3000, 0x30FF), (0x4E00, 0x4F00), (0x1F300, 0x1F700), (0xE000, 0x10FFFF)]
    bits = [
        " ",
        "  ",
        "\n\n",
        " \t",
        "'s",
        "'LL",
        "'re",
        "don't",
        "the",
        " France",
        "\u200d",
        "\xa0",
        "<|endoftext|>",
    ]
    texts = []
    for _ in range(count):
        text = ""
        for _ in range(draw.randrange(12)):
            low, high = draw.choice(ranges)
            word = "".join(chr(draw.randrange(low, high)) for _ in range(draw.randrange(1, 5)))
            text += draw.choice([word, word, draw.choice(bits)])
        texts.append(text)
    return texts


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("The capital of France is", [464, 3139, 286, 4881, 318]),
        (
            "GPT2 inference runtime in C++ and CUDA",
            [38, 11571, 17, 32278, 19124, 287, 327, 4880, 290, 29369, 5631],
        ),
        ("", []),
    ],
)
def test_known_ids_of_gpt2(gpt2: Tokenizer, text: str, ids: list[int]) -> None:
    assert gpt2.encode(text) == ids
    assert gpt2.decode(ids) == text


def test_gpt2_is_as_hf_has_it_on_fuzzed_unicode(gpt2: Tokenizer) -> None:
    folder = real_folder()
    hf = tokenizers.ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    texts = [*fuzz(6000, seed=0), "Hello!!!!!!!!!? 🤗, my dog is a little"]
    for text, encoding in zip(texts, hf.encode_batch(texts), strict=True):
        assert gpt2.encode(text) == encoding.ids, ascii(text)


def test_gpt2_names_and_ids(gpt2: Tokenizer) -> None:
    assert gpt2.n_vocab == 50257
    assert gpt2.end_of_text_id == 50256
    assert gpt2.encode("a<|endoftext|>b", special=True) == [64, 50256, 65]
    assert gpt2.encode("<|endoftext|>") == [27, 91, 437, 1659, 5239, 91, 29]
    assert gpt2.decode([64, 50256]) == "a<|endoftext|>"
    assert gpt2.tokens([464, 4881, 198, 50256, 50300]) == ["The", " France", "\n", "<|endoftext|>", "<50300>"]
    assert gpt2.tokens([464, 4881, 198, 50256, 50300], marked=True) == [
        *("The", "ĠFrance", "Ċ", "<|endoftext|>", "<50300>")
    ]
    assert gpt2.tokens(gpt2.encode("🙂")) == [r"\xf0\x9f", r"\x99\x82"]
    assert gpt2.find_id(" France") == 4881
    assert gpt2.find_id("<|endoftext|>") == 50256
    assert gpt2.find_id("ĠFrance") is gpt2.find_id("") is gpt2.find_id("\ud800") is None
    assert gpt2.token_bytes(4881) == b" France"


@given(st.text())
@settings(deadline=None, max_examples=200)
def test_any_text_survives_the_round_trip(gpt2: Tokenizer, text: str) -> None:
    ids = gpt2.encode(text)
    assert gpt2.decode(ids) == gpt2.decode(gpt2.encode(text, special=True)) == text
    stream = TextStream(gpt2)
    assert "".join(map(stream.push, ids)) == text
    assert stream.finish() == ""


@given(st.lists(st.integers(0, 50256)))
@settings(deadline=None, max_examples=200)
def test_a_stream_of_any_ids_equals_decode(gpt2: Tokenizer, ids: list[int]) -> None:
    stream = TextStream(gpt2)
    pieces = [*map(stream.push, ids), stream.finish()]
    assert "".join(pieces) == gpt2.decode(ids) == gpt2.decode_bytes(ids).decode(errors="replace")


@pytest.mark.parametrize(
    "text", ["a" * 10**6, " " * 10**6 + "x", "y" + "\n \u2003" * 10**6 + "x", " " * 10**6]
)
def test_a_million_of_the_same(gpt2: Tokenizer, text: str) -> None:
    """In time that grows with the text: with its square, pytest's limit would end it."""
    assert gpt2.decode(gpt2.encode(text)) == text


@pytest.mark.parametrize("before", ["", "a", " a ", "\n"])
@pytest.mark.parametrize("space", [" ", "\n", "\t \u3000", "\x1c"])
def test_long_white_space_is_cut_as_hf_cuts_it(tmp_path: Path, before: str, space: str) -> None:
    hf = trained(tmp_path, [])
    for after in ("", "b", " b", "\x1cb"):
        text = "x".join([before + space * 1100] * 3) + after
        assert load(tmp_path).encode(text) == hf.encode(text).ids


@pytest.mark.parametrize("specials", [[], ["<|endoftext|>"], ["<pad>", "<|endoftext|>", "[é]"]])
def test_a_trained_vocabulary_with_specials_first(tmp_path: Path, specials: list[str]) -> None:
    hf = trained(tmp_path, specials)
    ours = load(tmp_path)
    assert ours.n_vocab == hf.get_vocab_size() > 300 + len(specials)
    assert ours.end_of_text_id == (specials.index("<|endoftext|>") if specials else None)
    texts = [*fuzz(1000, seed=1), *(a + TEXT[i : i + 20] for i in range(len(TEXT)) for a in ("", *specials))]
    texts += ["a" * n for n in range(60)]
    for allow in (True, False):
        hf.encode_special_tokens = not allow
        for text in texts:
            assert ours.encode(text, special=allow) == hf.encode(text).ids, ascii(text)


def test_merges_that_no_training_makes_are_run_as_hf_runs_them(tmp_path: Path) -> None:
    draw = random.Random(0)
    differs = refused = 0
    for trial in range(300):
        pieces, merges = list("abc"), list[str]()
        while len(merges) < 12:
            pair = f"{draw.choice(pieces)} {draw.choice(pieces)}"
            if pair not in merges:
                merges.append(pair)
                pieces.append(pair.replace(" ", ""))
        vocab = small_vocab(merges)
        hf = tokenizers.ByteLevelBPETokenizer(vocab, [tuple(m.split()) for m in merges])
        try:
            ours = load(write(tmp_path / str(trial), vocab, merges))
        except TokenizerError:  # no ranks could stand for this one
            refused += 1
            continue
        differs += len(ours._engine._bpe._mergeable_ranks) < len(vocab)
        for _ in range(30):
            text = "".join(draw.choice("abc") for _ in range(draw.randrange(20)))
            assert ours.encode(text) == hf.encode(text).ids, (merges, text)
    assert differs > 100  # merges that cannot happen are common in such files
    assert 0 < refused < 10


def test_added_tokens_are_cut_out_as_hf_does_it(tmp_path: Path) -> None:
    hf = trained(tmp_path, ["<|endoftext|>"])
    added = tokenizers.AddedToken
    hf.add_special_tokens(
        [added("<s>", lstrip=True), added("</s>", rstrip=True), added("<mask>", lstrip=True, rstrip=True)]
    )
    hf.add_special_tokens([added("<late>", normalized=True), added("<|end", single_word=True)])
    hf.add_tokens(
        [added("cat", single_word=True), added("ca"), added("<L>", lstrip=True), added("<R>", rstrip=True)]
    )
    hf.add_tokens(
        [added("two words"), added(" sp "), added("first", normalized=False), added("é"), added("irs")]
    )
    bits = [
        "<|endoftext|>",
        "<s>",
        "</s>",
        "<mask>",
        "<late>",
        "<|end",
        "cat",
        "ca",
        "<L>",
        "<R>",
        "two words",
    ]
    bits += [
        " sp ",
        "first",
        "é",
        "irs",
        "s",
        " ",
        "  ",
        "\n",
        "\u2003",
        "\x1c",
        "_",
        "\u0301",
        "1",
        "-",
        "the",
    ]
    (tmp_path / "tokenizer.json").write_text(hf.to_str())
    ours, draw = load(tmp_path), random.Random(2)
    for allow in (True, False):
        hf.encode_special_tokens = not allow
        for _ in range(5000):
            text = "".join(draw.choices(bits, k=draw.randrange(1, 9)))
            assert ours.encode(text, special=allow) == hf.encode(text).ids, ascii(text)
    assert ours.decode(hf.encode("the cat two words").ids) == "the cat two words"


def test_where_added_tokens_are_declared(tmp_path: Path) -> None:
    write(tmp_path, {**small_vocab(["a b"]), "<|endoftext|>": 257}, ["a b"])
    (tmp_path / "added_tokens.json").write_text('{"[PAD]": 300, "[X]": 301, "[Y]": 302, "ab": 256}')
    flags = {"special": False, "lstrip": True, "rstrip": False, "single_word": False, "normalized": True}
    config = {
        "pad_token": {"content": "[PAD]"},
        "additional_special_tokens": ["[Y]"],
        "eos_token": "<|endoftext|>",
        "added_tokens_decoder": {
            "301": {"content": "[X]", **flags},
            "303": {"content": "[Z]", "special": True},
        },
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours = load(tmp_path)
    a = ours.encode("a")
    assert ours.encode("a [X]a") == [*a, 301, *a]
    for text, id in (("[PAD]", 300), ("[Y]", 302), ("[Z]", 303), ("<|endoftext|>", 257)):
        assert ours.encode(f"a{text}a", special=True) == [*a, id, *a]
        assert id not in ours.encode(f"a{text}a")
    assert ours.encode("cabab") == [*ours.encode("c"), 256, 256]
    assert ours.n_vocab == 304
    assert ours.tokens([299, 300]) == ["<299>", "[PAD]"]
    with pytest.raises(TokenizerError, match=r"299.*0 to 303"):
        ours.token_bytes(299)


GOOD = small_vocab(["a b", "ab c"])
BAD: dict[str, tuple[str, object, object]] = {
    "not JSON": ("vocab.json: is not JSON", "{", []),
    "nested too deeply": ("vocab.json: is not JSON", "[" * 100_000, []),
    "an array": ("vocab.json holds a list, not an object", [], []),
    "not UTF-8": ("vocab.json: byte 0xff at 0 is not UTF-8", b"\xff\xfe", []),
    "merges not UTF-8": ("merges.txt: byte 0xff at 2 is not UTF-8", GOOD, b"a \xff"),
    "empty": ("vocab.json lacks 256 of the 256 single bytes: 0x00,.* 0x07, ...$", {}, []),
    "a byte missing": ("vocab.json lacks 1 .* 0x41$", {k: v for k, v in GOOD.items() if k != "A"}, []),
    "the same id": ("vocab.json: 'Ā' and 'x' have the same id 0", {**GOOD, "x": 0}, []),
    "a negative id": ("vocab.json: the id of 'a' is -1", {**GOOD, "a": -1}, []),
    "a float": ("vocab.json: the id of 'a' is 1.0", {**GOOD, "a": 1.0}, []),
    "a bool": ("vocab.json: the id of 'a' is True", {**GOOD, "a": True}, []),
    "null": ("vocab.json: the id of 'a' is None", {**GOOD, "a": None}, []),
    "a huge id": ("vocab.json: the id of 'a' is 1000", {**GOOD, "a": 10**30}, []),
    "half a surrogate pair": (r"vocab.json: the token '\\ud800'", {**GOOD, "\ud800": 999}, []),
    "an empty token": ("vocab.json: the token ''", {**GOOD, "": 999}, []),
    "three pieces": ("merges.txt line 2: 'a b c' is not two", GOOD, ["#version: 0.2", "a b c"]),
    "one piece": ("merges.txt line 1: 'ab' is not two", GOOD, ["ab"]),
    "nothing before the space": ("merges.txt line 2: ' a' is not two", GOOD, ["a b", " a"]),
    "a result not in the vocabulary": (
        "merges.txt line 1: its result 'ba' is not in vocab.json",
        GOOD,
        ["b a"],
    ),
    "a part from nowhere": ("merges.txt line 1: 'ab' is no byte", GOOD, ["ab c", "a b"]),
    "a part that is no byte": (
        "merges.txt line 1: '\u6771' is no byte",
        {**GOOD, "\u6771a": 999},
        ["\u6771 a"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_vocabulary_is_refused_by_name(tmp_path: Path, case: str) -> None:
    message, ids, merges = BAD[case]
    with pytest.raises(TokenizerError, match=message) as caught:
        Tokenizer.from_folder(write(tmp_path, ids, merges))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("added_tokens.json", {"<x>": 5000, "<y>": 5000}, "'<y>' has id 5000, but so has '<x>'"),
        ("added_tokens.json", {"x": "1"}, "the id of 'x' is '1'"),
        ("added_tokens.json", {"a": 5000}, "'a' has id 5000, but"),
        ("added_tokens.json", {"": 5000}, "is empty"),
        ("tokenizer.json", {"added_tokens": ["x"]}, "'x' is no added token"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"q": {"content": "x"}}}, "the id of 'x' is 'q'"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"9": "x"}}, "'x' is no added token"),
        ("tokenizer_config.json", [], "holds a list"),
    ],
)
def test_bad_added_tokens_are_refused_by_name(
    tmp_path: Path, name: str, content: object, message: str
) -> None:
    (write(tmp_path, GOOD, ["a b", "ab c"]) / name).write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=f"{name}: .*{message}|{name} {message}"):
        Tokenizer.from_folder(tmp_path)


def test_missing_files(tmp_path: Path) -> None:
    assert Tokenizer.from_folder(tmp_path) is None
    write(tmp_path, GOOD, ["a b"])
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(TokenizerError, match=r"has no merges\.txt"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "vocab.json").unlink()
    (tmp_path / "merges.txt").touch()
    with pytest.raises(TokenizerError, match=r"has no vocab\.json"):
        Tokenizer.from_folder(tmp_path)


# -- tokenizer.json alone, as transformers 5 saves it -----------------------------------------------------


def alone(folder: Path, hf: tokenizers.Tokenizer, form: str) -> Path:
    """A folder in which tokenizer.json is all there is, its merges strings or lists of two."""
    content = json.loads(hf.to_str())
    merges = content["model"]["merges"]
    assert merges
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    content["model"]["merges"] = pairs if form == "lists" else [" ".join(pair) for pair in pairs]
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=form == "lists"), "utf-8")
    return folder


@pytest.mark.parametrize("form", ["lists", "strings"])
@pytest.mark.parametrize("specials", [[], ["<pad>", "<|endoftext|>", "[é]"]])
def test_tokenizer_json_alone_is_enough(tmp_path: Path, form: str, specials: list[str]) -> None:
    folder = alone(tmp_path / "alone", trained(tmp_path / "files", specials), form)
    hf = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ours = load(folder)
    assert ours.n_vocab == hf.get_vocab_size()
    texts = [*fuzz(1000, seed=3), *(TEXT[i : i + 20] + x for i in range(len(TEXT)) for x in ("", *specials))]
    for allow in (True, False):
        hf.encode_special_tokens = not allow
        for text in texts:
            assert ours.encode(text, special=allow) == hf.encode(text).ids, ascii(text)


def test_gpt2_from_tokenizer_json_alone(gpt2: Tokenizer, tmp_path: Path) -> None:
    files = real_folder()
    hf = tokenizers.ByteLevelBPETokenizer(str(files / "vocab.json"), str(files / "merges.txt"))
    hf.add_special_tokens(["<|endoftext|>"])
    ours = load(alone(tmp_path / "alone", hf._tokenizer, "lists"))
    assert (ours.n_vocab, ours.end_of_text_id) == (50257, 50256)
    for text in fuzz(1000, seed=4):
        for allow in (True, False):
            assert ours.encode(text, special=allow) == gpt2.encode(text, special=allow)


def test_tokenizer_json_comes_first(tmp_path: Path) -> None:
    folder = alone(tmp_path / "both", trained(tmp_path / "files", []), "lists")
    n_vocab = load(folder).n_vocab
    write(folder, GOOD, ["a b", "ab c"])
    assert load(folder).n_vocab == n_vocab > len(GOOD)
    (folder / "merges.txt").unlink()
    assert load(folder).n_vocab == n_vocab
    (folder / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=r"has no merges\.txt"):
        Tokenizer.from_folder(folder)


WHOLE = {
    "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
    "model": {"type": "BPE", "vocab": GOOD, "merges": ["a b", ["ab", "c"]]},
}
NOT_GPT2: dict[str, tuple[str, object]] = {
    "normalizer": ("normalizer is {'type': 'NFC'}, expected None", {"type": "NFC"}),
    "pre_tokenizer": ("pre_tokenizer is None, expected ByteLevel", None),
    "pre_tokenizer.type": ("pre_tokenizer is {'type': 'Sequence'", "Sequence"),
    "pre_tokenizer.add_prefix_space": ("'add_prefix_space': 3", 3),
    "pre_tokenizer.use_regex": ("'use_regex': False}, expected ByteLevel", False),
    "decoder": ("decoder is {'type': 'Fuse'}, expected ByteLevel", {"type": "Fuse"}),
    "model": ("model must be a dict, not list", [1]),
    "model.type": ("model.type is 'WordPiece', expected 'BPE'", "WordPiece"),
    "model.continuing_subword_prefix": ("continuing_subword_prefix is '##', expected ''", "##"),
    "model.end_of_word_suffix": ("end_of_word_suffix is '</w>', expected ''", "</w>"),
    "model.ignore_merges": ("ignore_merges is True, expected False", True),
    "model.vocab": ("lacks some of the 256 single bytes", None),
}
BAD_MERGES: dict[str, tuple[str, object]] = {
    "one piece": (r"model\.merges\[1\] is 'ab', not two pieces", "ab"),
    "three pieces": (r"model\.merges\[1\] is \['a', 'b', 'c'\], not two", ["a", "b", "c"]),
    "an empty piece": (r"model\.merges\[1\] is ' a', not two pieces", " a"),
    "numbers": (r"model\.merges\[1\] is \[1, 2\], not two pieces", [1, 2]),
    "null": (r"model\.merges\[1\] is None, not two pieces", None),
    "a part from nowhere": (r"model\.merges\[1\]: 'bc' is no byte", ["bc", "a"]),
    "a result not in the vocabulary": (r"model\.merges\[1\]: its result 'ba' is not in", ["b", "a"]),
}


def test_a_hand_made_tokenizer_json(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(WHOLE))
    assert load(tmp_path).encode("xabc") == [GOOD["x"], GOOD["abc"]]


@pytest.mark.parametrize("field", NOT_GPT2)
def test_another_kind_without_tokenizers_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    message, value = NOT_GPT2[field]
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(TokenizerError, match=re.escape(message)) as caught:
        Tokenizer.from_folder(changed(tmp_path, field, value))
    assert str(tmp_path / "tokenizer.json") in str(caught.value)
    assert field == "model" or "pip install 'gpt2np[tokenizers]'" in str(caught.value)


WRONG: dict[str, tuple[str, object]] = {
    "model.dropout": ("model.dropout is 0.1, with which no text has the same ids twice", 0.1),
    "model.merges": ("merges must be a list, not dict", {"a b": 0}),
    "model.continuing_subword_prefix": ("merges[0] is 'a b', not two pieces whose result is in", "##"),
    "model.ignore_merges": ("ignore_merges is 5, expected False: not GPT-2's tokenizer, and HF's token", 5),
    "normalizer": ("normalizer must be a dict, not list", ["NFC"]),
    "post_processor": ("post_processor is {'type': 'X'}, which is no known kind", {"type": "X"}),
    "post_processor.cls": ("post_processor.cls is ['a'], not a token and its id", ["a"]),
    "post_processor.processors": ("post_processor.processors[1] is 5, which is no known", [None, 5]),
    "post_processor.single": ("post_processor.single must hold the text ('Sequence') once", []),
    "post_processor.special_tokens": ("has {'SpecialToken': {'id': 'a'}}, which special_tokens lacks", {}),
}
KINDS = {"cls": "RobertaProcessing", "processors": "Sequence"}


@pytest.mark.parametrize("field", WRONG)
def test_what_no_tokenizer_json_may_say(tmp_path: Path, field: str) -> None:
    message, value = WRONG[field]
    with pytest.raises(TokenizerError, match=re.escape(message)) as caught:
        Tokenizer.from_folder(changed(tmp_path, field, value))
    assert str(tmp_path / "tokenizer.json") in str(caught.value)


def changed(folder: Path, field: str, value: object) -> Path:
    """WHOLE in a folder, with another value at `part.key`."""
    part, _, key = field.partition(".")
    old = WHOLE.get(part) or {"single": [{"SpecialToken": {"id": "a"}}], "type": "TemplateProcessing"}
    old = {**old, "type": KINDS[key]} if key in KINDS else old  # type: ignore[dict-item]
    content = {**WHOLE, part: {**old, key: value} if key else value}  # type: ignore[dict-item]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("case", BAD_MERGES)
def test_bad_merges_of_a_tokenizer_json_are_refused_by_name(tmp_path: Path, case: str) -> None:
    message, merge = BAD_MERGES[case]
    content = {**WHOLE, "model": {"vocab": GOOD, "merges": [["a", "b"], merge]}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: " + message):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    "merges",
    [b"a b\nab c", b"#version: 0.2\na b\nab c\n\n", b"\xef\xbb\xbf#version: 0.2\r\na b\r\nab c\r\na b\r\n"],
)
def test_bom_crlf_header_and_repeated_lines_are_tolerated(tmp_path: Path, merges: bytes) -> None:
    write(tmp_path, b"\xef\xbb\xbf" + json.dumps(GOOD, indent=1).replace("\n", "\r\n").encode(), merges)
    ours = load(tmp_path)
    assert ours.encode("xabc") == [GOOD["x"], GOOD["abc"]]
    assert ours.end_of_text_id is None


WRONG_CALLS: dict[str, Callable[[Tokenizer], object]] = {
    "beyond the vocabulary": lambda t: t.token_bytes(258),
    "negative": lambda t: t.decode([-1]),
    "negative, for display": lambda t: t.tokens([-1]),
    "a float": lambda t: t.decode([1.0]),  # type: ignore[list-item]
    "a bool": lambda t: t.decode([True]),
    "NumPy floats": lambda t: t.tokens(np.zeros(2)),
    "two dimensions": lambda t: t.decode(np.zeros((2, 2), np.int64)),
    "no list": lambda t: t.decode(5),  # type: ignore[arg-type]
    "a str": lambda t: t.decode("5"),  # type: ignore[arg-type]
    "one token": lambda t: t.token_bytes("a"),  # type: ignore[arg-type]
    "streamed": lambda t: TextStream(t).push(-1),
    "bytes as text": lambda t: t.encode(b"a"),  # type: ignore[arg-type]
    "half a surrogate pair": lambda t: t.encode("ab\ud800"),
}


@pytest.mark.parametrize("case", WRONG_CALLS)
def test_wrong_ids_and_texts(tmp_path: Path, case: str) -> None:
    with pytest.raises(TokenizerError):
        WRONG_CALLS[case](load(write(tmp_path, GOOD, ["a b", "ab c"])))


def test_a_panic_in_rust_is_an_ordinary_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        pass

    class Broken:
        def encode_ordinary(self, text: str) -> list[int]:
            raise PanicException

    ours = load(write(tmp_path, GOOD, ["a b", "ab c"]))
    monkeypatch.setattr(ours._engine, "_bpe", Broken())
    with pytest.raises(TokenizerError, match="3 characters"):
        ours.encode("abc")


def test_numpy_ids(tmp_path: Path) -> None:
    ours = load(write(tmp_path, GOOD, ["a b", "ab c"]))
    ids = np.array([256, 257], np.uint16)
    assert ours.decode(ids) == ours.decode(iter(ids)) == "ababc"
    assert ours.tokens(ids, marked=True) == ["ab", "abc"]
    assert ours.token_bytes(ids[0]) == b"ab"


def test_a_stream_never_splits_a_character(tmp_path: Path) -> None:
    ours = load(write(tmp_path, GOOD, []))  # without merges each token is one byte
    stream = TextStream(ours)
    text = "東京👩‍🚀é!"
    pieces = [stream.push(id) for id in ours.encode(text)]
    assert [piece for piece in pieces if piece] == list(text)
    assert stream.finish() == ""
    stream = TextStream(ours)
    assert [stream.push(id) for id in ours.encode("🙂")[:3]] == ["", "", ""]
    assert stream.finish() == "\ufffd"


def test_no_network_and_no_files_written(tmp_path: Path) -> None:
    code = """if True:
        import sys, os
        def hook(event, args):
            mode = args[1] if event == "open" else None
            if event.startswith("socket.") or (isinstance(mode, str) and set(mode) & set("wax+")):
                os._exit(9)
        sys.addaudithook(hook)
        from pathlib import Path
        import gpt2np.text.tokenizer
        assert "tiktoken" not in sys.modules
        tokenizer = gpt2np.text.tokenizer.Tokenizer.from_folder(Path(sys.argv[1]))
        print(tokenizer.decode(tokenizer.encode("abc <|endoftext|>", special=True)))
    """
    folder, temp = write(tmp_path / "model", GOOD, ["a b", "ab c"]), tmp_path / "temp"
    temp.mkdir()
    env = {**os.environ, "TMPDIR": str(temp), "HOME": str(temp), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "abc <|endoftext|>\n"), done.stderr
    assert list(temp.iterdir()) == []
