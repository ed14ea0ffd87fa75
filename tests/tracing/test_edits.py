"""Edits: what they replace, where, in every kind of run; and what is refused."""

import functools

import numpy as np
import pytest
from support.differences import relative_error
from support.random_model import random_model

import gpt2np
from gpt2np.analysis.interventions import zero
from gpt2np.architectures.gpt2.config import Config
from gpt2np.architectures.gpt2.sites import SITES
from gpt2np.errors import InputError, UnknownSiteError
from gpt2np.tracing.edits import Edits

PROMPT, OTHER = [3, 1, 4, 1, 5, 9, 2], [2, 7, 1, 8, 2, 8, 1]
CONFIG = Config(n_layer=2, n_head=2, n_embd=16, n_positions=64, vocab_size=60, eos_token_id=None)
STORED = [name for name, site, _ in SITES.expand(2) if not site.derived]
EDITABLE = [*STORED, *(f"h.{i}.attn.{part}" for i in range(2) for part in "qkv")]


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def plain(model):
    return model.trace(PROMPT)


def assert_same(found, expected):
    assert found.names() == expected.names()
    for name in expected.names():
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


# -- nothing is changed -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edits", [None, {}, {"*": lambda x: x}, {"*": lambda x: x.copy()}], ids=["none", "empty", "same", "copy"]
)
def test_edits_that_change_nothing(tiny, edits):
    text = "Elizabeth was"
    assert_same(tiny.trace(text, edits=edits), tiny.trace(text))
    np.testing.assert_array_equal(tiny(text, edits=edits), tiny(text))
    np.testing.assert_array_equal(tiny(text, last=True, edits=edits), tiny(text, last=True))
    assert tiny.score(text, edits=edits).loss == tiny.score(text).loss
    one, other = (tiny.generate(text, max_new_tokens=5, keep="*", edits=e).finish() for e in (edits, None))
    assert_same(one.trace, other.trace)


def test_a_trace_without_edits_says_nothing_of_edits(plain, model):
    assert "edits" not in plain.metadata
    assert "edits" not in model.trace(PROMPT, edits={}).metadata


# -- what is changed ----------------------------------------------------------------------------------


def test_every_stored_site_and_qkv_is_asked_once(model, plain):
    seen = []

    def look(array, where):
        seen.append(where.name)
        assert where.positions == range(7)
        assert where.steps.tolist() == [0] * 7
        assert where.step == 0
        assert where.site.full_name(where.layer) == where.name
        np.testing.assert_array_equal(array, plain[where.name])
        return array

    model.trace(PROMPT, edits={"*": look, "attn.[qkv]": look})
    assert sorted(seen) == sorted(EDITABLE)
    assert [name for name in seen if name in STORED] == STORED


@pytest.mark.parametrize("name", EDITABLE)
def test_a_patch_of_one_site_is_what_comes_after_computed_from_it(model, plain, name):
    """The site holds what was put there, what ran before is as it was, every step after it holds."""
    other = model.trace(OTHER)
    edited = model.trace(PROMPT, edits={name: lambda x: other[name]})
    np.testing.assert_array_equal(edited[name], other[name])
    written = name[:-1] + "qkv" if name.endswith(("attn.q", "attn.k", "attn.v")) else name
    for before in STORED[: STORED.index(written)]:
        np.testing.assert_array_equal(edited[before], plain[before])
    assert edited.metadata["edits"] == [name]
    verification = edited.verify()
    skipped = {statement for statement, why in verification.skipped.items() if why == "edited"}
    assert skipped
    assert all(statement.startswith(written) for statement in skipped)
    assert len(verification.checked) + len(skipped) == len(plain.verify().checked)


@pytest.mark.parametrize("site", ["embed", "h.0.resid_mid", "h.1.resid_post", "ln_f", "logits"])
def test_a_patch_of_everything_gives_the_other_prompts_output(model, site):
    other = model.trace(OTHER)
    np.testing.assert_array_equal(model(PROMPT, edits={site: lambda x: other[site]}), model(OTHER))


def test_editing_v_is_editing_its_slice_of_qkv(model):
    def slice_of_qkv(qkv):
        qkv[:, 32:48] *= 3
        return qkv

    one = model.trace(PROMPT, edits={"h.1.attn.v": lambda v: v * 3})
    assert_same(one, model.trace(PROMPT, edits={"h.1.attn.qkv": slice_of_qkv}))
    assert relative_error(one["h.1.attn.z"], 3 * model.trace(PROMPT)["h.1.attn.z"]) < 1e-12


def test_names_of_other_dialects_and_patterns(model):
    expected = model.trace(PROMPT, edits={"h.0.attn.z": np.tanh, "h.1.attn.z": np.tanh})
    for edits in (
        {"attn.z": np.tanh},
        {"h.*.attn.z": np.tanh},
        {"h.[01].attn.z": np.tanh},
        {"blocks.*.attn.hook_z": np.tanh},
        {"blocks.0.attn.hook_z": np.tanh, "attn.z": lambda z, where: np.tanh(z) if where.layer else z},
    ):
        assert_same(model.trace(PROMPT, edits=edits), expected)
    pattern = model.trace(PROMPT, edits={"attentions[1]": lambda x: x * 0.5})
    assert pattern.metadata["edits"] == ["h.1.attn.pattern"]
    assert Edits({"blocks.1.attn.hook_q": abs}, CONFIG).names == ["h.1.attn.q"]
    assert "h.0.attn.q" not in Edits({"attn.*": abs}, CONFIG).names


def test_edits_of_one_site_follow_each_other(model):
    both = model(PROMPT, edits={"h.0.mlp.out": lambda x: x + 1, "mlp.out": lambda x: x * 2})
    once = {"h.0.mlp.out": lambda x: (x + 1) * 2, "h.1.mlp.out": lambda x: x * 2}
    np.testing.assert_array_equal(both, model(PROMPT, edits=once))


def test_functions_with_defaults_get_the_array_only(model):
    expected = model(PROMPT, edits={"mlp.out": lambda x: x * 3})
    for function in (lambda x, factor=3: x * factor, functools.partial(np.multiply, 3)):
        np.testing.assert_array_equal(model(PROMPT, edits={"mlp.out": function}), expected)


def test_a_run_that_an_edit_makes_infinite_is_not_refused(model):
    assert np.isnan(model(PROMPT, edits={"h.0.mlp.out": lambda x: x * np.inf})).any()


# -- in every kind of run -----------------------------------------------------------------------------


def double_late(array, where):
    """Depends on nothing but the position."""
    late = np.array(where.positions) >= 4
    result = array.copy()
    if "query" in where.site.axis_names:
        result[:, late] *= 0.5
    else:
        result[late] *= 2
    return result


@pytest.mark.parametrize("name", EDITABLE)
def test_packed_equals_alone(model, name):
    prompts = [PROMPT, [5], OTHER + PROMPT]
    together = model.trace(prompts, edits={name: double_late})
    for ids, packed in zip(prompts, together, strict=True):
        alone = model.trace(ids, edits={name: double_late})
        for site in alone.names():
            assert relative_error(packed[site], alone[site]) < 1e-12, site
        np.testing.assert_allclose(model(ids, last=True, edits={name: double_late}), alone["logits"][-1])


@pytest.mark.every(2)
@pytest.mark.parametrize("name", EDITABLE)
@pytest.mark.parametrize("keep", ["*", "logits", None])
def test_cached_equals_the_full_run(model, name, keep):
    done = model.generate(PROMPT, max_new_tokens=6, keep=keep, edits={name: double_late}).finish()
    whole = model.trace(done.token_ids[:-1], edits={name: double_late})
    assert whole["logits"][6:].argmax(-1).tolist() == done.response.token_ids
    if keep is not None:
        assert done.trace.metadata["edits"] == [name]
        for site in done.trace.names():
            assert relative_error(done.trace[site], whole[site]) < 1e-12, site
        done.trace.verify()


@pytest.mark.parametrize("options", [{"lookup": 3}, {"num_beams": 2}, {"on_overflow": "slide"}], ids=str)
def test_steps_of_a_generation(model, options):
    seen = {}

    def look(x, where):
        assert len(where.steps) == len(where.positions) == len(x)
        for position, step in zip(where.positions, where.steps.tolist(), strict=True):
            assert step == max(0, position - 6)
            seen[position] = step
        return x

    n = 10
    done = model.generate(PROMPT, max_new_tokens=n, edits={"embed": look}, **options).finish()
    assert done.token_ids == model.generate(PROMPT, max_new_tokens=n, **options).finish().token_ids
    assert {position for position in seen if position < 16} == set(range(7 + n - 1))


def test_steps_when_the_window_slides():
    model, seen = random_model(n_positions=8), []
    edits = {"embed": lambda x, where: seen.append(where.steps.tolist()) or x}
    model.generate(PROMPT, max_new_tokens=4, on_overflow="slide", edits=edits).finish()
    assert seen == [[0] * 7, [1], [0] * 6 + [1, 2], [0] * 5 + [1, 2, 3]]


def test_several_prompts_get_the_same_edits(model):
    edits = {"h.1.mlp.post": double_late}
    together = model.generate([PROMPT, OTHER], max_new_tokens=5, edits=edits).finish()
    for ids, done in zip([PROMPT, OTHER], together, strict=True):
        assert done.token_ids == model.generate(ids, max_new_tokens=5, edits=edits).finish().token_ids


def test_score(model):
    edits = {"h.1.attn.v": double_late}
    logits = model(PROMPT, edits=edits)
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    found = model.score(PROMPT, edits=edits).log_probabilities[1:]
    np.testing.assert_allclose(found, expected[np.arange(6), PROMPT[1:]])


def test_less_kept_and_stopped_early(model):
    edits = {"mlp.out": double_late}
    whole = model.trace(PROMPT, edits=edits)
    half = model.trace(PROMPT, edits=edits, keep={"positions": slice(3, 6), "patterns": ["resid_post"]})
    np.testing.assert_array_equal(half["h.1.resid_post"], whole["h.1.resid_post"][3:6])
    early = model.trace(PROMPT, edits=edits, stop_at_layer=1)
    np.testing.assert_array_equal(early["h.0.resid_post"], whole["h.0.resid_post"])


def test_the_list_of_edits_is_saved(model, tmp_path):
    model.trace(PROMPT, edits={"attn.q": abs}).save(tmp_path / "t.safetensors")
    opened = gpt2np.Trace.open(tmp_path / "t.safetensors", model)
    assert opened.metadata["edits"] == ["h.0.attn.q", "h.1.attn.q"]
    assert list(opened.verify().skipped.values()) == ["edited"] * 2


# -- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (
            {"h.0.attn.z": lambda z: z[:3]},
            r"edit of h\.0\.attn\.z returned \[3, 2, 8\], expected .*head.*\[7, 2, 8\]",
        ),
        ({"h.0.attn.z": lambda z: None}, r"h\.0\.attn\.z returned None"),
        ({"h.0.attn.z": lambda z: 0.0}, r"h\.0\.attn\.z returned 0\.0"),
        ({"h.0.attn.z": lambda z: z + 1j}, r"h\.0\.attn\.z returned complex128, expected float64"),
        ({"h.0.attn.z": lambda z: z.astype(str)}, "expected float64"),
        ({"h.0.attn.z": 0}, "must be a function"),
        ({"h.0.attn.heads": abs}, r"h\.0\.attn\.heads is derived.*edit h\.0\.attn\.z"),
        ({"attn.heads": abs}, "is derived"),
        ({"blocks.1.hook_resid_pre": abs}, r"edit h\.0\.resid_post"),
        ({"h.0.ln_1.rstd": abs}, r"edit embed"),
        ({"probabilities": abs}, "edit logits"),
        ([("embed", abs)], "must map site names to functions"),
        (
            {"h.0.attn.pattern": zero},
            r"edits\['h\.0\.attn\.pattern'\]: zero takes no array; is zero\(\) meant\?",
        ),
        ({"h.0.attn.pattern": lambda: 0}, "takes no array"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_edits(model, edits, message):
    for call in (
        lambda: model.trace(PROMPT, edits=edits),
        lambda: model(PROMPT, edits=edits),
        lambda: model.generate(PROMPT, edits=edits).finish(),
        lambda: model.score(PROMPT, edits=edits),
    ):
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.parametrize(
    "key", ["h.0.attn.zz", "h.2.attn.z", "h.*.zz", "nothing", "", 3, None, "qq", "hidden_states", "layer_9_Q"]
)
def test_unknown_sites(model, key):
    with pytest.raises(UnknownSiteError):
        model.trace(PROMPT, edits={key: abs})


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("Q", "attn.q"),
        ("attention_weights", "attn.pattern"),
        ("weighted_values", "attn.z"),
        ("hidden_state", "resid_post"),
        ("layer_1_mlp_hidden", "h.1.mlp.pre"),
        ("attentions[1]", "h.1.attn.pattern"),
        ("hook_mlp_out", "mlp.out"),
    ],
)
def test_names_of_other_dialects_mean_every_layer_too(model, name, own):
    found, expected = (model.trace(PROMPT, edits={key: lambda x: x * 0.5}) for key in (name, own))
    assert found.metadata["edits"] == expected.metadata["edits"]
    np.testing.assert_array_equal(found["logits"], expected["logits"])
