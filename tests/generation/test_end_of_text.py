"""Every id that config.json or generation_config.json names ends a text, as HF has it."""

import json

import numpy as np
import pytest
from support import made_up, needs
from support import tiny_checkpoint as tiny

import gpt2np
from gpt2np.architectures.gpt2.config import Config
from gpt2np.checkpoints import hub
from gpt2np.cli import main
from gpt2np.errors import CheckpointError, ConfigError

PROMPT = [41, 256, 275]


@pytest.fixture
def folder(tmp_path):
    return tiny.write(tmp_path / "model")


def say(folder, config=..., generation=...):
    """The two files with these `eos_token_id`; ... leaves it out."""
    values = {key: value for key, value in tiny.CONFIG.items() if key != "eos_token_id"}
    values |= {} if config is ... else {"eos_token_id": config}
    (folder / "config.json").write_text(json.dumps(values))
    if generation is not ...:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
    return gpt2np.load(folder)


def continuation(folder, n=6):
    """What follows where nothing ends a text: ids that differ."""
    ids = say(folder).generate(PROMPT, max_new_tokens=12, eos=None, repetition_penalty=3.0).finish().token_ids
    return list(dict.fromkeys(ids[len(PROMPT) :]))[:n]


SAID = {
    "one": (lambda a, b: (a, ...), 0),
    "a list of one": (lambda a, b: ([a], ...), 0),
    "the first of two": (lambda a, b: ([a, b], ...), 0),
    "the second of two": (lambda a, b: ([299, a], ...), 0),
    "generation_config alone": (lambda a, b: (None, a), 0),
    "a list in generation_config": (lambda a, b: (299, [298, a]), 0),
    "config beside generation_config": (lambda a, b: (a, [298, 299]), 0),
    "both": (lambda a, b: (b, a), 0),
    "null in both": (lambda a, b: (None, None), None),
    "an empty list": (lambda a, b: ([], []), None),
    "left out of both": (lambda a, b: (..., ...), None),
    "outside of the vocabulary": (lambda a, b: ([10**6, 50256], 50257), None),
}


@pytest.mark.parametrize("case", SAID)
def test_any_id_that_the_checkpoint_names_ends_a_text(folder, case):
    a, b, *_ = continuation(folder)
    said, at = SAID[case]
    model = say(folder, *said(a, b))
    options = {"max_new_tokens": 8, "repetition_penalty": 3.0}
    done = model.generate(PROMPT, **options).finish()
    new = done.token_ids[len(PROMPT) :]
    assert new == [a] if at == 0 else len(new) == 8
    assert (
        model.generate(PROMPT, eos=None, **options).finish().token_ids[len(PROMPT) :][:2] == [a, *new[1:2]]
        or at == 0
    )
    assert not model.checkpoint.notes


@pytest.mark.needs("transformers")
@pytest.mark.parametrize("where", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("num_beams", [1, 2])
def test_lists_end_texts_where_hf_ends_them(folder, where, num_beams):
    torch = needs.imported("torch")
    from transformers import GPT2LMHeadModel

    ids = continuation(folder)
    for ends in ([ids[0], ids[1]], [299, ids[2]], [ids[3], 298, ids[2]]):
        ours = say(folder, *((ends, ...) if where == "config.json" else (299, [299, *ends])))
        theirs = GPT2LMHeadModel.from_pretrained(folder)
        options = {"max_new_tokens": 10, "num_beams": num_beams, "repetition_penalty": 3.0}
        expected = theirs.generate(torch.tensor([PROMPT]), do_sample=False, pad_token_id=0, **options)[
            0
        ].tolist()
        assert ours.generate(PROMPT, **options).finish().token_ids == expected
        (folder / "generation_config.json").unlink(missing_ok=True)


def test_the_command_line_ends_there_as_well(folder, capsys):
    end = say(folder).generate(PROMPT, max_new_tokens=1, eos=None).finish().token_ids[-1]
    say(folder, [298, int(end)])
    arguments = ["--model", str(folder), "--max-new-tokens", "8", "--json"]
    assert main(["generate", "--tokens", " ".join(map(str, PROMPT)), *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["response"]["token_ids"] == [end]


def test_a_checkpoint_from_the_hub_has_them_too(folder, monkeypatch):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 8]}))
    snapshot = hub.Snapshot(folder, "c0ffee", "org/model")
    monkeypatch.setattr(hub, "fetch", lambda *_, **__: snapshot)
    assert gpt2np.load("org/model").checkpoint.eos_ids == (299, 7, 8)
    assert "generation_config.json" in hub.EXTRAS


def test_it_holds_for_every_architecture(tmp_path):
    folder = made_up.write(tmp_path / "m")
    values = json.loads((folder / "config.json").read_text())
    end = gpt2np.load(folder).generate([1, 2], max_new_tokens=1).finish().token_ids[-1]
    (folder / "config.json").write_text(json.dumps(values | {"eos_token_id": [299, int(end)]}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 298}))
    model = gpt2np.load(folder)
    assert model.checkpoint.eos_ids == (299, end, 298)
    assert model.generate([1, 2], max_new_tokens=5).finish().token_ids == [1, 2, end]


@pytest.mark.parametrize(
    ("value", "kept", "ids"),
    [
        (5, 5, (5,)),
        ([5], 5, (5,)),
        ([5, 6, 5], (5, 6), (5, 6)),
        ((5, 6), (5, 6), (5, 6)),
        (None, None, ()),
        ([], None, ()),
    ],
)
def test_a_config_keeps_all_and_comes_back(value, kept, ids, folder, tmp_path):
    config = Config(eos_token_id=value)
    assert config.eos_token_id == kept
    assert config.eos_ids == ids
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert hash(config) == hash(Config(eos_token_id=kept))
    model = say(folder, value if value is None or isinstance(value, int) else list(value))
    model.trace(PROMPT, out=tmp_path / "t.safetensors")
    opened = gpt2np.Trace.open(tmp_path / "t.safetensors", model=model)
    assert opened.config == model.config
    assert opened.config.eos_ids == ids


@pytest.mark.parametrize("value", ["end", [5, "end"], [True], 1.5, [[5]], {"a": 1}, False])
def test_what_is_no_id_is_refused_in_both_files(folder, value):
    with pytest.raises(
        ConfigError, match=r"config\.json: eos_token_id must be a whole number, a list of them"
    ):
        say(folder, value)
    with pytest.raises(
        CheckpointError, match=r"generation_config\.json: eos_token_id must be a whole number, a"
    ):
        say(folder, 299, value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "is not JSON"),
        (b"[1]", "expected a JSON object, found list"),
        (b"\xff", "not UTF-8"),
        (b"null", "NoneType"),
    ],
)
def test_a_malformed_generation_config_is_named(folder, content, says):
    (folder / "generation_config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"generation_config\.json: .*{says}"):
        gpt2np.load(folder)


GPT2S = {
    "bos_token_id": 50256,
    "eos_token_id": 50256,
    "transformers_version": "4.26.0.dev0",
    "_from_model_config": True,
}


@pytest.mark.parametrize(
    ("content", "ignored"),
    [
        (GPT2S, None),
        ({}, None),
        (
            {
                "do_sample": False,
                "temperature": 1.0,
                "top_p": 1,
                "num_beams": 1,
                "max_length": 20,
                "top_k": None,
            },
            None,
        ),
        (
            {"pad_token_id": 0, "use_cache": True, "output_attentions": False, "cache_implementation": None},
            None,
        ),
        (GPT2S | {"do_sample": True, "temperature": 0.7, "top_k": 50}, "do_sample, temperature, top_k"),
        ({"repetition_penalty": 1.2, "max_new_tokens": 50}, "repetition_penalty, max_new_tokens"),
        (
            {"num_beams": 4, "early_stopping": True, "bad_words_ids": [[5]]},
            "bad_words_ids, num_beams, early_stopping",
        ),
        ({"temperature": "hot"}, "temperature"),
    ],
)
def test_sampling_defaults_are_ignored_with_one_note(folder, content, ignored):
    (folder / "generation_config.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    model = gpt2np.load(folder)
    notes = [
        f"{folder}/generation_config.json: {ignored} ignored: how tokens are chosen is for the caller to say"
    ]
    assert list(model.checkpoint.notes) == ([] if ignored is None else notes)
    greedy = model.generate(PROMPT, max_new_tokens=3, eos=None).finish().token_ids
    assert greedy[3] == int(np.argmax(model(PROMPT, last=True)))
