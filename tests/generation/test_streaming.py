"""Text as it is chosen: whole characters, stop strings and stop tokens, nothing lost and nothing twice."""

import numpy as np
import pytest
from support.random_model import random_model, random_model_with_text

from gpt2np.errors import InputError
from gpt2np.generation.sampling import Choice

EOS = 2047


@pytest.fixture(scope="module")
def model():
    return random_model_with_text(n_layer=1)


@pytest.fixture
def says(model, monkeypatch):
    """A function: `model.generate` with a response that is forced, given as text or as token ids."""

    def generate(response, prompt="a", n=None, **options):
        ids = model.tokenizer.encode(response) if isinstance(response, str) else list(response)

        def forced(logits, sampling, *, context, prompt_length, **_):
            return Choice(ids[len(context) - prompt_length], 1.0)

        monkeypatch.setattr("gpt2np.generation.decoding.choose", forced)
        return model.generate(prompt, max_new_tokens=n or len(ids), **options)

    return generate


def letters(text: str) -> list[int]:
    """One token for each byte."""
    from gpt2np.checkpoints.checkpoint import shipped_folder
    from gpt2np.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_folder(shipped_folder())
    return [tokenizer._id[bytes([byte])] for byte in text.encode()]


# -- one token after another --------------------------------------------------------------------------


def test_a_token_arrives_before_the_next_is_computed(model, monkeypatch):
    passes, run_pass = [], model.run_pass
    monkeypatch.setattr(
        model, "run_pass", lambda run, step: (passes.append(run.n_rows), run_pass(run, step))[1]
    )
    generation = model.generate([1, 2, 3], max_new_tokens=4, eos=None)
    assert passes == []
    seen = []
    for n, token in enumerate(generation, 1):
        assert len(passes) == n
        seen.append(token)
    assert passes == [3, 1, 1, 1]
    assert [t.step for t in seen] == [0, 1, 2, 3]
    assert [t.id for t in seen] == generation.finish().response.token_ids
    assert [t.probability for t in seen] == generation.finish().probabilities
    assert len(passes) == 4


def test_iterating_first_and_finishing_later_is_one_generation(model):
    whole = model.generate("It was", max_new_tokens=8).finish()
    generation = model.generate("It was", max_new_tokens=8)
    first = [next(generation).id, next(generation).id]
    done = generation.finish()
    assert done.token_ids == whole.token_ids
    assert done.response.token_ids[:2] == first


TEXTS = [
    "plain words, one after another",
    "grin 😀 and family 👨‍👩‍👧‍👦 flags 🇩🇪🇯🇵 end",
    "日本語のテキスト と 한국어 и ещё по-русски",
    "naïve café \u0301 \n\t\r\x00\x7f end",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("cut", [False, True], ids=["tokens", "bytes"])
def test_pieces_are_whole_characters_and_together_the_text(says, text, cut):
    generation = says(letters(text) if cut else text)
    pieces = [token.text for token in generation]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    if cut:
        assert [piece for piece in pieces if piece] == list(text)
    done = generation.finish()
    assert done.text == "a" + text
    assert done.response.text == text


def test_a_character_that_is_never_finished_shows_as_such(says):
    ids = letters("x😀")
    assert [t.text for t in says(ids[:4])] == ["x", "", "", "\ufffd"]
    assert [t.text for t in says([*ids[:3], *letters("y")])] == ["x", "", "", "\ufffdy"]
    assert [t.text for t in says([*ids[:3], EOS])] == ["x", "", "", "\ufffd"]


def test_a_prompt_may_end_inside_a_character(says, model):
    ids = letters("x😀y")
    for n in range(1, 6):
        generation = says(ids[n:], prompt=ids[:n])
        assert "".join(t.text for t in generation) == "x😀y"[1 if n < 5 else 2 :]
        done = generation.finish()
        assert done.text == model.tokenizer.decode(ids) == "x😀y"
        assert done.prompt.text == "x😀y"[: 1 if n < 5 else 2]


def test_without_a_vocabulary_the_text_is_ids():
    model = random_model()
    generation = model.generate([1, 2], max_new_tokens=3)
    pieces = [token.text for token in generation]
    done = generation.finish()
    assert pieces == [f"<{i}>" for i in done.response.token_ids]
    assert done.text == "<1><2>" + "".join(pieces)


def test_ids_that_only_pad_the_vocabulary_do_not_end_a_stream(monkeypatch):
    model = random_model_with_text(vocab_size=2060, n_layer=1)
    ids = [*letters("x😀")[:3], 2050, *letters("y"), 2059]
    monkeypatch.setattr(
        "gpt2np.generation.decoding.choose", lambda *_, context, **__: Choice(ids[len(context) - 2], 1.0)
    )
    generation = model.generate([letters("a")[0], 2051], max_new_tokens=len(ids))
    assert [token.text for token in generation] == ["x", "", "", "", "\ufffdy", ""]
    done = generation.finish()
    assert done.text == model.decode(done.token_ids) == "ax\ufffdy"  # as HF leaves them out
    assert done.tokens[1] == "<2051>"  # each id has its string


def test_several_prompts_stream_apart(says):
    pieces = {0: "", 1: ""}
    generation = says(letters("😀é"), prompt=["a", "bb"])
    for token in generation:
        pieces[token.prompt] += token.text
    assert pieces == {0: "😀é", 1: "😀é"}
    assert [d.text for d in generation.finish()] == ["a😀é", "bb😀é"]


# -- stop strings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one two END three", "END", "one two "),
        ("one END", "END", "one "),
        ("END", "END", ""),
        ("aaab", "aab", "a"),
        ("abababac", "abac", "abab"),
        ("one two", ["two", "one"], ""),
        ("one two three", ["three", "two"], "one "),
        ("a\n\nb", "\n\n", "a"),
        ("日本語", "本", "日"),
        ("x😀y", "😀", "x"),
        ("same start: abcd", ["abce", "bc"], "same start: a"),
    ],
)
@pytest.mark.parametrize("cut", [False, True], ids=["tokens", "bytes"])
def test_a_stop_string_ends_the_text_before_it(says, text, stop, expected, cut):
    generation = says(letters(text) if cut else text, stop=stop)
    pieces = [token.text for token in generation]
    done = generation.finish()
    assert "".join(pieces) == done.response.text == expected
    assert done.stopped_by == "stop"
    assert done.text == "a" + expected


@pytest.mark.parametrize("text", ["the EN is near", "ENEN", "one E", "日本", "😀", "xEN\nED", ""])
def test_what_only_begins_like_a_stop_string_is_held_back_and_then_released(says, text):
    ids = [*letters(text), *letters("!")]
    generation = says(ids, stop=["END", "本語", "😀😀"])
    pieces = [token.text for token in generation]
    assert "".join(pieces) == generation.finish().response.text == text + "!"
    assert generation.finish().stopped_by == "length"


def test_what_is_held_back_comes_with_the_token_that_decides(says):
    assert [t.text for t in says(letters("aENDb"), stop="END")] == ["a", "", "", ""]
    assert [t.text for t in says(letters("aENb"), stop="END")] == ["a", "", "", "ENb"]
    assert [t.text for t in says(letters("aEN"), stop="END")] == ["a", "", "EN"]
    assert [t.text for t in says([*letters("aEN"), EOS], stop="END")] == ["a", "", "", "EN"]


def test_of_several_stop_strings_in_one_token_the_first_counts(says, model):
    ids = model.tokenizer.encode("Elizabeth")
    assert model.tokenizer.tokens(ids) == ["E", "lizabeth"]
    for stop in (["za", "beth"], ["beth", "za"]):
        assert says(ids, stop=stop).finish().response.text == "Eli"


def test_stop_by_hand_keeps_what_was_held_back(says):
    generation = says(letters("aEND"), stop="END")
    pieces = [next(generation).text for _ in range(3)]
    generation.stop()
    assert pieces == ["a", "", ""]
    assert generation.finish().text == "aaEN"


def test_a_stop_string_in_the_prompt_or_across_its_end_does_not_count(says):
    assert says("D and on", prompt="END EN", stop="END").finish().text == "END END and on"


def test_a_stop_string_leaves_the_tokens_of_the_response_as_they_are(says, model):
    done = says("one two three", stop="wo th", keep="logits").finish()
    assert done.response.text == "one t"
    assert done.response.token_ids == model.tokenizer.encode("one two three")[: len(done.response.token_ids)]
    assert len(done.trace.token_ids) == len(done.token_ids) - 1


# -- stop tokens --------------------------------------------------------------------------------------


def test_the_configs_end_of_text_ends_it(says):
    ids = [*letters("one"), EOS, *letters("two")]
    done = says(ids).finish()
    assert (done.text, done.stopped_by, done.token_ids[-1]) == ("aone", "eos", EOS)
    done = says(ids, eos=None).finish()
    assert (done.text, done.stopped_by) == ("aone<|endoftext|>two", "length")
    done = says(ids, eos=letters("n")[0]).finish()
    assert (done.text, done.stopped_by) == ("ao", "eos")
    done = says(ids, stop_tokens=letters("et")).finish()
    assert (done.text, done.stopped_by) == ("aon", "eos")
    done = says(ids, eos=None, stop_tokens=letters("w")).finish()
    assert (done.text, done.stopped_by) == ("aone<|endoftext|>t", "eos")


@pytest.mark.parametrize("prompt", ["a", ["a", "b"]])
def test_an_empty_response(says, prompt):
    done = says([EOS], prompt=prompt, n=10, keep="*").finish()
    for d in [done] if prompt == "a" else done:
        assert d.text == d.prompt.text
        assert (d.response.text, d.response.token_ids, d.stopped_by) == ("", [EOS], "eos")
        assert d.trace.token_ids == d.prompt.token_ids
        assert len(d.steps) == 1


def test_the_last_token_may_be_the_end(says):
    assert says([*letters("ab"), EOS]).finish().stopped_by == "eos"
    assert says(letters("ab")).finish().stopped_by == "length"
    assert says(letters("ab"), stop="b").finish().stopped_by == "stop"


def test_stops_with_guesses_in_one_pass(says, model):
    """Prompt lookup verifies several tokens at once: what is after the stop is not part of the text."""
    prompt = letters("one two, one two, ")
    for lookup in (0, 1, 5, 20):
        options = {"prompt": prompt, "lookup": lookup, "keep": "logits"}
        done = says(letters("one two, one"), stop="two", **options).finish()
        assert done.response.text == "one "
        assert done.response.token_ids == letters("one two")
        assert done.trace["logits"].shape[0] == len(done.token_ids) - 1
        done = says(letters("one two, one"), eos=letters("w")[0], **options).finish()
        assert (done.response.text, done.stopped_by) == ("one t", "eos")


@pytest.mark.parametrize("stop", ["", ["a", ""], [1], [b"a"]])
def test_wrong_stop_strings(model, stop):
    with pytest.raises(InputError, match="stop="):
        model.generate("a", stop=stop)


def test_numpy_ids_are_ids(model):
    ids = np.array([5, 6, 7])
    plain = model.generate([5, 6, 7], max_new_tokens=3).finish()
    found = model.generate(ids, max_new_tokens=3, eos=np.int64(EOS), stop_tokens=ids[:1]).finish()
    assert found.token_ids == plain.token_ids[: len(found.token_ids)]
    assert model.generate(ids[None], max_new_tokens=3).finish()[0].token_ids == plain.token_ids
