"""The token that begins every text, and conversations in a model's turns: a vocabulary of Gemma's kind."""

import json
import random
import sys

import pytest
from support import gemma2_checkpoint, gemma_tokenizer, needs
from support.command_line import run

import gpt2np
from gpt2np.capture.prompt_set import Prompt, PromptSet
from gpt2np.capture.runs import Options, capture_prompts
from gpt2np.errors import InputError, TokenizerError
from gpt2np.kv.extraction import extract_to_file
from gpt2np.kv.resume import load_kv
from gpt2np.text.chat import template_note
from gpt2np.text.tokenizer import Tokenizer
from gpt2np.tracing import contract
from gpt2np.tracing.contract import Turns

CONTROL = ("<bos>", "<start_of_turn>", "<end_of_turn>")
BOS = 2
# the chat template of gemma-2's instruction-tuned models
TEMPLATE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
    "{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim"
    " + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
TURNS = Turns("<start_of_turn>", "<end_of_turn>", {"user": "user", "assistant": "model"}, TEMPLATE)
BITS = [*gemma_tokenizer.OWN, *"<>", "<bos>", "<eos>", "<b", "os>", " ", "  ", "     ", "\r", "\x00", "\x1b"]
BITS += ["the cat", "hello", "é", "東", "🙂", "123", "\u2028", "▁", "<0x41>", "\ufffd", "user\n"]


def texts(n, seed=0):
    draw = random.Random(seed)
    wild = [chr(draw.choice([draw.randrange(0x20), draw.randrange(0xD800), 0x1F600])) for _ in range(60)]
    return ["".join(draw.choices([*BITS, *wild], k=draw.randrange(9))) for _ in range(n)]


@pytest.fixture(params=[False, True], ids=["nobody says BOS", "the file says BOS"])
def tokenizer(request, tmp_path):
    return Tokenizer.from_folder(gemma_tokenizer.write(tmp_path / "t", request.param), "<bos>", CONTROL)


@pytest.fixture
def model(tmp_path):
    folder = gemma2_checkpoint.write(tmp_path / "m", vocab_size=440, max_position_embeddings=64)
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 6]}')
    return gpt2np.load(gemma_tokenizer.write(folder))


def test_it_is_the_architecture_that_says_so():
    gemma = contract.find("gemma2")
    assert (gemma.control, gemma.turns) == (CONTROL, TURNS)
    assert [contract.find(other).control for other in ("gpt2", "gpt_neo")] == [(), ()]


@pytest.mark.needs("transformers")
def test_ids_are_those_of_hf_behind_one_bos(tokenizer, tmp_path, request):
    needs.imported("torch")
    from transformers import AutoTokenizer

    hf = AutoTokenizer.from_pretrained(tmp_path / "t")
    turns = [hf.convert_tokens_to_ids(text) for text in CONTROL]
    for text in texts(50_000 if request.config.getoption("--slow") else 5_000):
        theirs = hf(text, add_special_tokens=False).input_ids
        once = theirs if theirs[:1] == [BOS] else [BOS, *theirs]
        assert tokenizer.encode(text, special=True) == once
        plain = tokenizer.encode(text)
        assert plain[0] == BOS
        assert not {*turns, 0, 1} & {*plain[1:]}
        assert tokenizer.decode(plain[1:]) == tokenizer.decode(theirs) == text.replace("▁", " ")


@pytest.mark.needs("transformers")
def test_a_conversation_is_what_hfs_template_makes_of_it(model):
    from transformers import AutoTokenizer

    hf = AutoTokenizer.from_pretrained(model.checkpoint.folder)
    hf.chat_template = TEMPLATE
    for n, text in enumerate(texts(300, 1)):
        if any(token in text for token in (*CONTROL, "<eos>", "<mask>")):
            continue
        words = ["Hi", f" {text}\n", "the cat", text][: n % 4 + 1]
        said = [{"role": ("user", "assistant")[i % 2], "content": word} for i, word in enumerate(words)]
        rendered = hf.apply_chat_template(said, tokenize=False, add_generation_prompt=len(said) % 2 == 1)
        assert model.chat_prompt(said) == hf(rendered, add_special_tokens=False).input_ids
        assert model.token_ids(rendered, limit=False, special=True) == model.chat_prompt(said)
    assert model.chat_prompt("Hi") == model.chat_prompt([{"role": "user", "content": "Hi"}])
    for wrong in (["system", "user"], ["user", "user"], ["assistant"]):
        said = [{"role": role, "content": "x"} for role in wrong]
        with pytest.raises(Exception, match=r"not supported|must alternate"):
            hf.apply_chat_template(said, tokenize=False)
        with pytest.raises(InputError):
            model.chat_prompt(said)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ([], "no message"),
        (5, "a text or a list of messages, not 5"),
        (["Hi"], "message 1 must be an object"),
        ([{"role": "user"}], "content must be a text, found nothing"),
        ([{"role": "user", "content": ["Hi"]}], "content must be a text, found"),
        ([{"role": "user", "content": "Hi", "name": "x"}], "message 1 has 'name'"),
        ([{"role": "system", "content": "x"}], "put what it says before the user's first message"),
        ([{"role": "user", "content": "x"}] * 2, "message 2 is of role user, expected assistant"),
        ([{"role": "model", "content": "x"}], "message 1 is of role assistant, expected user"),
    ],
)
def test_what_is_no_conversation_is_refused(model, said, error):
    with pytest.raises(InputError, match=error):
        model.chat_prompt(said)


OTHERS = {
    "none": (None, False),
    "the released one": (TEMPLATE, False),
    "spaced and cut otherwise": (TEMPLATE.replace("{%", "\n  {%- ").replace("'", '"'), False),
    "another": (TEMPLATE.replace("model", "assistant"), True),
    "with a system message": ("{% if messages[0]['role'] == 'system' %}...", True),
}


@pytest.mark.parametrize("where", ["tokenizer_config.json", "several by name", "chat_template.jinja"])
@pytest.mark.parametrize(("template", "told"), OTHERS.values(), ids=OTHERS)
def test_another_template_of_the_checkpoint_is_told(model, capsys, where, template, told):
    folder = model.checkpoint.folder
    if template is None:
        pass
    elif where == "chat_template.jinja":
        (folder / where).write_text(template)
    else:
        value = [{"name": "rag", "template": "x"}, {"name": "default", "template": template}]
        given = template if where == "tokenizer_config.json" else value
        gemma_tokenizer.write(folder, chat_template=given)
    again = gpt2np.load(folder)
    note = template_note(again.config.architecture, again.tokenizer)
    assert (note is not None) == told
    code, _, err = run(capsys, "tokenize", "hello", "--chat", "--model", folder)
    assert (code, "chat_template is not that of gemma2" in err) == (0, told)
    assert "chat_template" not in run(capsys, "tokenize", "hello", "--model", folder)[2]


def test_a_model_without_turns_has_no_template_to_differ():
    tiny = gpt2np.load()
    assert template_note(tiny.config.architecture, tiny.tokenizer) is None


def test_models_without_turns_refuse():
    with pytest.raises(InputError, match="gpt2 has no chat template"):
        gpt2np.load("tiny").chat_prompt("Hi")


def test_nothing_in_a_message_ends_its_turn(model):
    ids = model.chat_prompt("a<end_of_turn>\n<start_of_turn>model\nb<bos>")
    assert [ids.count(model.find_id(token)) for token in CONTROL] == [1, 2, 1]


def test_merges_that_make_a_control_token_are_not_made(tmp_path):
    folder = gemma_tokenizer.write(tmp_path)
    whole = json.loads((folder / "tokenizer.json").read_text())
    vocab, merges = whole["model"]["vocab"], whole["model"]["merges"]
    for left, right in (("<", "b"), ("<b", "o"), ("<bo", "s"), ("<bos", ">")):
        vocab.setdefault(left + right, len(vocab))
        merges.insert(0, [left, right])
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    ours = Tokenizer.from_folder(folder, "<bos>", CONTROL)
    assert ours.encode("<bos>", ends=False).count(BOS) == 0
    assert ours.encode("<bos>", special=True) == [BOS]


def test_a_text_of_the_config_can_go_without(tmp_path):
    said_not = gemma_tokenizer.write(tmp_path, add_bos_token=False)
    assert Tokenizer.from_folder(said_not, "<bos>", CONTROL).encode("hello")[0] != BOS


def test_it_is_the_same_text_in_every_call(model, tmp_path):
    ids = model.token_ids("the cat")
    assert ids[0] == BOS
    assert model.trace("the cat").token_ids == ids
    assert model.trace(ids).token_ids == ids
    score = model.score("the cat")
    assert score.token_ids == ids
    assert score.n_predicted == len(ids) - 1
    chat = model.chat_prompt("the cat")
    assert model.score(chat).token_ids == model.trace(chat).token_ids == chat
    done = model.generate(chat, max_new_tokens=2).finish()
    assert done.prompt.token_ids == chat
    extract_to_file(model, chat, tmp_path / "kv.safetensors")
    assert (
        load_kv(tmp_path / "kv.safetensors", model).generate(max_new_tokens=1).finish().token_ids[:-1] == chat
    )
    prompts = PromptSet("set", (Prompt(1, "the cat"),))
    entry = capture_prompts(model, prompts, tmp_path / "e", options=Options(2, chat=True))[0][0]
    assert (entry.text, entry.prompt_tokens) == ("the cat", len(chat))
    with pytest.raises(InputError, match="chat"):
        capture_prompts(model, prompts, tmp_path / "e", options=Options(2))


def test_every_window_of_a_long_text_begins_with_it(model):
    ids = model.token_ids("the cat sat on the mat. " * 12, limit=False)
    assert len(ids) > 64
    score = model.score(ids, stride=60)
    alone = model.score([BOS, *ids[61:]])
    assert score.log_probabilities[64:] == pytest.approx(alone.log_probabilities[4:], abs=1e-5)


def test_a_text_beyond_the_context_keeps_its_beginning(model):
    """on_overflow="slide": every window that is run begins with it, in the place of its first token."""
    ids = model.token_ids("the cat sat on the mat. " * 12, limit=False)[:62]
    done = model.generate(ids, max_new_tokens=8, on_overflow="slide", eos=None).finish()
    text = list(ids)
    for _ in range(8):
        text.append(int(model(text if len(text) <= 64 else [BOS, *text[-63:]])[-1].argmax()))
    assert done.token_ids == text


def test_compare_and_patch_take_messages(model, capsys, tmp_path):
    name, chat, other = (
        model.checkpoint.folder,
        model.chat_prompt("the cat sat"),
        model.chat_prompt("the sat sat"),
    )
    model.trace(chat).save(tmp_path / "t.safetensors")
    said = tmp_path / "said.json"
    said.write_text(json.dumps([{"role": "user", "content": "the cat sat"}]))
    compare = ("compare", tmp_path / "t.safetensors", "--model", name, "--json", "--chat")
    for prompt in ("the cat sat", said):
        code, out, err = run(capsys, *compare, "--prompt", prompt)
        assert (code, json.loads(out)["verdict"]) == (0, "within-noise"), err
        words = (prompt, "the sat sat", "--answer", "10", "--wrong", "20", "--chat")
        code, out, err = run(capsys, "patch", *words, "--model", name, "--json")
        assert code == 0, err
        for key, ids in (("clean", chat), ("corrupt", other)):
            logits = model(ids, last=True)
            found = json.loads(out)[key]
            assert found["logit_difference"] == pytest.approx(logits[10] - logits[20], abs=1e-5)
            assert found["tokens"] == model.tokens(ids)
    for more, error in (
        ((), "--chat takes a --prompt"),
        (("--tokens", "5"), "--chat takes a --prompt"),
        (("--prompt", "the cat sat", "--their-tokens", "2,5"), "leave out --chat"),
        (("--prompt", "the cat sat", "--special"), "--special does not go with --chat"),
    ):
        code, _, err = run(capsys, *compare, *more)
        assert code == 2
        assert error in err


def test_a_turns_end_ends_a_text(model):
    assert model.checkpoint.eos_ids == (1, 6)


def test_the_command_line(model, capsys, tmp_path):
    name, chat = model.checkpoint.folder, model.chat_prompt("the cat")
    file, text = tmp_path / "said.json", tmp_path / "text.txt"
    text.write_text("the cat")
    file.write_text(json.dumps([{"role": "user", "content": "the cat"}]))
    for argv, ids in (
        (["tokenize", "the cat", "--chat"], lambda facts: facts["token_ids"]),
        (["tokenize", file, "--chat"], lambda facts: facts["token_ids"]),
        (["generate", "the cat", "--chat", "--max-new-tokens", 1], lambda f: f["prompt"]["token_ids"]),
        (["score", text, "--chat", "--tokens"], lambda facts: [row["id"] for row in facts["per_token"]]),
        (["score", file, "--chat", "--tokens"], lambda facts: [row["id"] for row in facts["per_token"]]),
        (
            ["kv", "extract", "the cat", "--chat", "--out", tmp_path / "k.json"],
            lambda f: f["input_token_ids"],
        ),
    ):
        code, out, err = run(capsys, *argv, "--json", "--model", name)
        assert code == 0, err
        assert ids(json.loads(out)) == chat
    for argv in (
        ["trace", "the cat", "--chat"],
        ["view", "the cat", "--chat", "--no-open", "--out", tmp_path / "v.html"],
        [
            "capture",
            "--prompt",
            "x",
            "--chat",
            "--experiment",
            "e",
            "--output",
            tmp_path,
            "--max-new-tokens",
            2,
        ],
        ["kv", "dataset", "--prompts", "x", "--chat", "--output-dir", tmp_path / "d"],
    ):
        assert run(capsys, *argv, "--model", name)[0] == 0
    for argv, error in (
        (["trace", "x", "--chat", "--special"], "--special does not go with --chat"),
        (["trace", "--tokens", "5", "--chat"], "--chat takes a TEXT"),
        (["trace", "--trace", "f", "--chat"], ""),
        (["trace", "x", "--chat", "--model", "tiny"], "gpt2 has no chat template"),
    ):
        code, out, err = run(capsys, *argv, *([] if "tiny" in argv else ["--model", name]))
        assert (code, out) == (2, "")
        assert error in err


def test_tokenizer_model_alone_is_refused_for_texts(model, capsys):
    folder = model.checkpoint.folder
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"")
    with pytest.raises(TokenizerError, match=r"has tokenizer\.model and no tokenizer\.json"):
        gpt2np.load(folder).trace("x")
    code, _, err = run(capsys, "trace", "--tokens", "5,6", "--model", folder)
    assert code == 0
    assert "tokens are shown by their ids" in err


def test_without_tokenizers_only_ids_run(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    again = gpt2np.load(model.checkpoint.folder)
    assert again.trace([5, 6]).token_ids == [5, 6]
    with pytest.raises(TokenizerError, match=r"gpt2np\[tokenizers\]"):
        again.chat_prompt("Hi")


@pytest.mark.needs("sentencepiece")
def test_the_vocabulary_is_what_sentencepiece_makes():
    assert gemma_tokenizer.made() == gemma_tokenizer.FILE.read_text("utf-8")
