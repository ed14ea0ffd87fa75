"""What may be given as a prompt in Python: whatever has token ids in it, and nothing that only seems to."""

import array
import codecs
import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support import tiny_checkpoint
from support.breaking import message_of

import gpt2np
from gpt2np.errors import Gpt2npError, InputError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return gpt2np.load(tiny_checkpoint.write(tmp_path_factory.mktemp("tiny")))


class Table:
    """A table of columns, as pandas and polars have them: iterating yields their names."""

    columns = ("input_ids", "text")

    def keys(self):
        return self.columns

    def __iter__(self):
        return iter(self.columns)

    def __contains__(self, name):
        return name in self.columns

    def get(self, name):
        return [5, 6] if name == "input_ids" else None


ONE = {
    "a list": [5, 6],
    "a tuple": (5, 6),
    "a range": range(5, 7),
    "an array": np.array([5, 6], np.uint8),
    "an array of Python's": array.array("i", [5, 6]),
    "values of a dict": {"a": 5, "b": 6}.values(),
    "NumPy integers": [np.int64(5), np.int32(6)],
    "a mapping": {"input_ids": [5, 6]},
    "a mapping of an array": {"input_ids": np.array([5, 6])},
    "with a mask": {"input_ids": [5, 6], "attention_mask": [1, 1]},
    "padded before": {"input_ids": [0, 5, 6], "attention_mask": [0, 1, 1]},
    "padded behind": {"input_ids": np.array([5, 6, 0, 0]), "attention_mask": np.array([1, 1, 0, 0])},
    "token types of 0": {"input_ids": [5, 6], "token_type_ids": [0, 0]},
    "keys that say nothing of the ids": {"input_ids": [5, 6], "length": [2], "offset_mapping": [(0, 1)]},
    "a table of columns": Table(),
}


@pytest.mark.parametrize("prompt", ONE.values(), ids=ONE)
def test_one_prompt(model, prompt):
    assert model.trace(prompt).token_ids == [5, 6]
    assert model.generate(prompt, max_new_tokens=1).finish().token_ids[:2] == [5, 6]
    assert model.score(prompt).token_ids == [5, 6]
    assert model.plan(prompt).length == 2
    assert model(prompt).shape == (2, model.config.vocab_size)


SEVERAL = {
    "lists": ([[5, 6], [7]], [[5, 6], [7]]),
    "an array of two axes": (np.array([[5, 6], [7, 8]]), [[5, 6], [7, 8]]),
    "a batch of one": (np.array([[5, 6]]), [[5, 6]]),
    "a mapping of a batch": (
        {"input_ids": [[0, 5, 6], [7, 8, 9]], "attention_mask": [[0, 1, 1], [1, 1, 1]]},
        [[5, 6], [7, 8, 9]],
    ),
    "a mapping of arrays": (
        {"input_ids": np.array([[5, 6], [7, 0]]), "attention_mask": np.array([[1, 1], [1, 0]])},
        [[5, 6], [7]],
    ),
    "mappings": ([{"input_ids": [5, 6]}, {"input_ids": [7]}], [[5, 6], [7]]),
    "a generator of arrays": (lambda: (np.array([i]) for i in (5, 6)), [[5], [6]]),
}


@pytest.mark.parametrize(("prompts", "expected"), SEVERAL.values(), ids=SEVERAL)
def test_several_prompts(model, prompts, expected):
    def given():
        return prompts() if callable(prompts) else prompts

    assert [trace.token_ids for trace in model.trace(given())] == expected
    done = model.generate(given(), max_new_tokens=1).finish()
    assert [d.token_ids[: len(ids)] for d, ids in zip(done, expected, strict=True)] == expected


@pytest.mark.needs("transformers", "torch")
@pytest.mark.parametrize("kind", ["lists", "np", "pt"])
@pytest.mark.parametrize("texts", ["the a", ["the a"], ["the a", "the the a"]], ids=["one", "batch", "two"])
def test_what_a_tokenizer_of_transformers_gives(tiny, kind, texts):
    from transformers import AutoTokenizer

    from gpt2np.checkpoints.checkpoint import shipped_folder

    tokenizer = AutoTokenizer.from_pretrained(shipped_folder(), pad_token="<|endoftext|>")
    options = {"padding": not isinstance(texts, str)}
    encoded = tokenizer(texts, return_tensors=None if kind == "lists" else kind, **options)
    found, expected = tiny.trace(encoded), tiny.trace(texts)
    if isinstance(texts, str) and kind != "lists":
        expected = [expected]  # transformers makes a batch of one text
    as_ids = [[t.token_ids for t in (x if isinstance(x, list) else [x])] for x in (found, expected)]
    assert isinstance(found, list) == isinstance(expected, list)
    assert as_ids[0] == as_ids[1]


@pytest.mark.needs("torch")
def test_tensors(model):
    import torch

    assert model.trace(torch.tensor([5, 6])).token_ids == [5, 6]
    assert [t.token_ids for t in model.trace(torch.tensor([[5, 6]]))] == [[5, 6]]
    with pytest.raises(InputError, match="one prompt is a text or a flat list"):
        model(torch.tensor([[5, 6]]))


WRONG = {
    "a mapping of something else": ({"text": "the"}, "mapping without input_ids", "one of its values"),
    "ids that are a text": ({"input_ids": "the"}, "mapping whose input_ids are a text"),
    "a mask with a hole": ({"input_ids": [5, 6, 7], "attention_mask": [1, 0, 1]}, "inside the text"),
    "a mask of another length": ({"input_ids": [5, 6], "attention_mask": [1]}, "1 positions", "input_ids 2"),
    "a mask of nothing": ({"input_ids": [5, 6], "attention_mask": [0, 0]}, "empty"),
    "types of tokens": ({"input_ids": [5, 6], "token_type_ids": [0, 1]}, "token_type_ids"),
    "an additive mask": ({"input_ids": [5, 6], "attention_mask": [0.0, -1e9]}, "1 where a token counts"),
    "a mask of text": ({"input_ids": [5, 6], "attention_mask": "11"}, "0 positions"),
    "positions of its own": ({"input_ids": [5, 6], "position_ids": [3, 4]}, "position_ids"),
    "a reader of lines": (codecs.getreader("utf-8")(io.BytesIO(b"the\n")), "an open file"),
    "a set": ({5, 6}, "a set", "no order"),
    "a frozen set": (frozenset([5]), "a set", "no order"),
    "keys of a dict": ({5: 6}.keys(), "a set", "no order"),
    "an open file": (io.StringIO("the\na\n"), "an open file", "read it"),
    "an open file of bytes": (io.BytesIO(b"the"), "an open file", "read it"),
    "a path": (Path("prompt.txt"), "a path", "read the file"),
    "bytes": (b"the", "bytes", "decode them"),
    "a bytearray": (bytearray(b"the"), "bytes", "decode them"),
    "a view of memory": (memoryview(b"the"), "bytes", "decode them"),
    "an object": (SimpleNamespace(input_ids=[5]), "text or a list of token ids", "namespace"),
    "a class": (dict, "text or a list of token ids"),
    "an array of no axes": (np.array(5), "text or a list of token ids"),
    "an id of 5,000 digits": ([10**5000], "token id int too long to be shown", "0 to 299"),
    "an id of 5,000 digits below zero": ([-(10**5000)], "token id int too long to be shown"),
    "masked ids": (np.ma.array([5, 6], mask=[0, 1]), "whole numbers", "masked"),
    "bytes in a list": ([b"the"], "whole numbers", "b'the'"),
}


@pytest.mark.parametrize(("prompt", "parts"), [(p, parts) for p, *parts in WRONG.values()], ids=WRONG)
@pytest.mark.parametrize("call", ["trace", "generate", "score", "plan", "__call__", "token_ids"])
def test_what_only_seems_to_be_a_prompt(model, call, prompt, parts):
    with pytest.raises(Gpt2npError) as caught:
        getattr(model, call)(prompt)
    if parts != ["empty"]:
        message_of(caught.value, InputError, *parts)


@pytest.mark.parametrize("call", ["score", "plan", "__call__", "token_ids"])
@pytest.mark.parametrize("prompts", [["the", "a"], [[5, 6]], np.array([[5, 6]]), [{"input_ids": [5]}]])
def test_where_one_prompt_is_expected(model, call, prompts):
    with pytest.raises(InputError, match="one prompt is a text or a flat list of token ids, not a list"):
        getattr(model, call)(prompts)


@pytest.mark.parametrize("call", ["trace", "generate"])
def test_of_several_prompts_the_one_that_is_refused_is_named(tiny, call):
    prompts = ["Hello"] * 4 + ["the " * 300]
    options = {"max_new_tokens": 1} if call == "generate" else {}
    with pytest.raises(InputError, match=r"^prompt 5 of 5 has 301 tokens"):
        getattr(tiny, call)(prompts, **options)
    with pytest.raises(InputError, match=r"^prompt 2 of 3: "):
        getattr(tiny, call)([[1], [5000], [2]], **options)
    with pytest.raises(InputError, match=r"^(?!prompt)"):
        getattr(tiny, call)(prompts[-1:][0], **options)
