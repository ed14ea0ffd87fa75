"""Manifests and prompt sets that somebody else wrote, or that are damaged: field by field."""

import json

import pytest
from support import tiny_checkpoint as tiny
from support.breaking import message_of

import gpt2np
from gpt2np.capture.manifest import Manifest, read_manifest
from gpt2np.capture.prompt_set import Prompt, PromptSet, load_prompt_set
from gpt2np.capture.runs import Options, capture_prompts
from gpt2np.errors import InputError, TraceError

FIELDS = {
    "path": (5, None, ["a"], {}),
    "bytes": ("1", 1.5, -1, None, True, 2**70),
    "sha256": (5, None, []),
    "prompt_set": (5, None, {}),
    "id": (1.5, None, True, [1], {}),
    "text": (5, None, ["a"]),
    "layer": ("1", 1.5, -1, True, [0]),
    "prompt_tokens": ("1", 0, 1.5, None, True),
    "response_tokens": ("1", -1, 1.5, None, True),
    "model": ("tiny", None, [], 5),
    "options": ("greedy", None, [], 5),
}


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    model = gpt2np.load(tiny.write(tmp_path_factory.mktemp("tiny")))
    folder = tmp_path_factory.mktemp("captured")
    capture_prompts(model, PromptSet("s", (Prompt(1, "the"),)), folder, options=Options(1))
    return json.loads((folder / "manifest.jsonl").read_text("utf-8"))


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_of_a_manifest(tmp_path, captured, name):
    def refused(row):
        content = json.dumps(captured) + "\n" + json.dumps(row) + "\n"
        (tmp_path / "manifest.jsonl").write_text(content, "utf-8")
        for read in (read_manifest, Manifest):
            with pytest.raises(TraceError) as caught:
                read(tmp_path)
        assert (tmp_path / "manifest.jsonl").read_text("utf-8") == content
        return message_of(caught.value, TraceError, str(tmp_path / "manifest.jsonl"))

    for value in FIELDS[name]:
        assert f"line 2: {name} is {value!r}, expected " in refused(captured | {name: value})
    assert f"line 2: {name} is missing, expected " in refused(
        {key: value for key, value in captured.items() if key != name}
    )
    assert "line 2: 'more' is no field of it" in refused(captured | {"more": 1})


SETS = {
    "NaN": ('{"prompts": [{"id": NaN, "text": "a"}]}', "NaN is not a number of JSON"),
    "1e400": ('{"prompts": [{"id": 1e400, "text": "a"}]}', "is not JSON"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "5,000 digits": ('{"prompts": [{"id": ' + "1" * 5000 + ', "text": "a"}]}', "is not JSON"),
    "half a surrogate pair": ('{"prompts": [{"id": 1, "text": "\\udfff"}]}', "half a surrogate pair"),
    "half of one in a note": ('{"prompts": [{"id": 1, "text": "a", "note": "\\ud83d"}]}', "half a surrogate"),
    "a key twice": ('{"prompts": [], "prompts": [{"id": 1, "text": "a"}]}', "'prompts' appears twice"),
    "Latin-1": ('{"description": "caf\xe9", "prompts": []}', "byte 0xe9 at 20 is not UTF-8"),
}


@pytest.mark.parametrize(("content", "part"), SETS.values(), ids=SETS)
def test_what_is_no_prompt_set(tmp_path, content, part):
    (tmp_path / "mine.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError) as caught:
        load_prompt_set(str(tmp_path / "mine.json"))
    message_of(caught.value, InputError, str(tmp_path / "mine.json"), part)
