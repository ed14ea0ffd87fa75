"""`gpt2np trace TEXT --show SITE` and the function behind it: the numbers of a trace, named."""

import json

import numpy as np
import pytest
from support import command_line

import gpt2np
from gpt2np.analysis.named_array import NamedArray
from gpt2np.analysis.site_values import has_sign, likeliest, site_values
from gpt2np.architectures.gpt2.sites import SITES
from gpt2np.cli.verbs.printed_arrays import excerpt
from gpt2np.errors import InputError, TraceError, UnknownSiteError
from gpt2np.tables import cell_width
from gpt2np.tracing.sites import DIALECTS

TEXT = "Elizabeth was not"
NAMES = [site.full_name(1 if site.layered else None) for site in SITES]


@pytest.fixture(autouse=True)
def _default_model(monkeypatch):
    monkeypatch.delenv("GPT2NP_MODEL", raising=False)


@pytest.fixture(scope="module")
def trace(tiny):
    return tiny.trace(TEXT)


def run(capsys, *argv):
    return command_line.run(capsys, "trace", *argv)


def facts(capsys, *argv):
    code, out, _ = run(capsys, *argv, "--json")
    assert code == 0
    return json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def numbers(values):
    """JSON's null is what was not finite."""
    return np.array(values, dtype=float)


def finite(array):
    return np.where(np.isfinite(array), array, np.nan)


# -- the function ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_site_with_its_axes_and_labels(trace, name):
    found = site_values(trace, name)
    np.testing.assert_array_equal(found.array, trace[name])
    site = SITES[name.removeprefix("h.1.")]
    assert found.axes == site.axis_names
    assert found.title.splitlines() == [name, site.doc]
    for axis in {"pos", "query", "key"} & set(found.axes):
        assert found.labels[axis] == ["0 |E|", "1 |lizabeth|", "2 | was|", "3 | not|"]
    if "vocab" in found.axes:
        assert found.labels["vocab"][315] == " not"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_names_of_other_programs(trace, dialect):
    for site in SITES:
        for template in site.names.get(dialect, ()):
            name = template.replace("{i}", "2")
            if site.layered and "{i}" not in template:
                name += "[2]"
            expected = trace[site.full_name(2 if site.layered else None)]
            np.testing.assert_array_equal(site_values(trace, name).array, expected)


def test_one_head_and_one_position(trace):
    pattern = trace["h.1.attn.pattern"]
    found = site_values(trace, "h.1.attn.pattern", head=2, pos=-1)
    np.testing.assert_array_equal(found.array, pattern[2, -1])
    assert found.axes == ("key",)
    assert found.title.startswith("h.1.attn.pattern, head 2, query 3 | not|\n")
    found = site_values(trace, "h.1.attn.z", pos=1)
    np.testing.assert_array_equal(found.array, trace["h.1.attn.z"][1])
    assert found.axes == ("head", "d_head")
    found = site_values(trace, "loss", pos=0)
    assert found.array == trace["loss"][0]
    assert found.axes == ()


def test_part_of_a_trace(tiny, trace, tmp_path):
    half = tiny.trace(TEXT, keep={"patterns": "*", "positions": slice(2, None), "dtype": "float16"})
    found = site_values(half, "h.1.attn.pattern")
    assert found.array.dtype == np.float32
    assert found.labels["query"] == ["2 | was|", "3 | not|"]
    assert len(found.labels["key"]) == 4
    np.testing.assert_allclose(found.array, trace["h.1.attn.pattern"][:, 2:], atol=1e-3)
    with pytest.raises(TraceError, match="position 0 was not kept"):
        site_values(half, "embed", pos=0)
    tiny.trace(TEXT, out=tmp_path / "t.safetensors")
    alone = gpt2np.Trace.open(tmp_path / "t.safetensors")
    assert "vocab" not in site_values(alone, "logits").labels


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"name": "h.9.attn.z"}, UnknownSiteError, "layer 9 is not one of 0 to 3"),
        ({"name": "h.1.attn.zz"}, UnknownSiteError, "the nearest is"),
        ({"name": "attn.z"}, UnknownSiteError, "in every layer"),
        ({"name": "embed", "head": 0}, InputError, "embed has no heads: its axes are pos n_embd"),
        ({"name": "h.1.attn.z", "head": 4}, InputError, "head 4 is not one of 0 to 3"),
        ({"name": "h.1.attn.z", "head": -1}, InputError, "head -1"),
        ({"name": "h.1.attn.z", "pos": 4}, InputError, "position 4 is not one of the 4"),
    ],
)
def test_wrong_calls(trace, options, error, says):
    with pytest.raises(error, match=says):
        site_values(trace, **options)


def test_which_sites_have_a_sign(trace):
    for name in NAMES:
        values = trace[name][np.isfinite(trace[name])]
        site = SITES[name.removeprefix("h.1.")]
        assert has_sign(site) or (values >= 0).all()
        assert not has_sign(site) or (values < 0).any() or site.name.endswith(("mean", "top_k_tokens"))


def test_the_likeliest_of_the_vocabulary(trace):
    for pos in (None, 2):
        whole = site_values(trace, "logits", pos=pos)
        part = likeliest(whole, 5)
        order = np.argsort(-trace["logits"][-1 if pos is None else pos])[:5]
        np.testing.assert_array_equal(part.array, whole.array[..., order])
        assert part.labels["vocab"] == trace.model.tokens(order.tolist())
        assert part.title.endswith("the 5 largest of 2048")
    embed = site_values(trace, "embed")
    assert likeliest(embed, 5) is embed


# -- on a terminal ---------------------------------------------------------------------------------


@pytest.mark.every(2)
@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_are_those_of_the_trace(capsys, trace, name):
    found = facts(capsys, TEXT, "--show", name)
    assert found["model"] == "tiny"
    assert found["tokens"] == trace.tokens
    np.testing.assert_allclose(
        numbers(found["sites"][name]["values"]), finite(trace[name]), rtol=1e-4, atol=1e-5
    )
    code, out, err = run(capsys, TEXT, "--show", name)
    assert code == 0
    assert err == ""
    assert out.splitlines()[0] == name
    first = trace[name].ravel()[0]
    if "vocab" not in found["sites"][name]["axes"]:  # of the vocabulary it shows the likeliest
        assert (str(first) if first.dtype.kind == "i" else f"{first:.4g}") in out


AWKWARD = ["😀 日本語 \n\t\x07 naïve", "To be, or not to be: that is the question. " * 15, "a"]


@pytest.mark.every(3)
@pytest.mark.parametrize("text", AWKWARD, ids=["awkward", "long", "one token"])
@pytest.mark.parametrize(
    "options", [[], ["--pos", "-1"], ["--head", "3"], ["--head", "0", "--pos", "0"]], ids=str
)
def test_output_is_calm(capsys, text, options):
    for name in NAMES:
        if "--head" in options and "head" not in SITES[name.removeprefix("h.1.")].axis_names:
            continue
        code, out, _ = run(capsys, text, "--show", name, *options)
        assert code == 0
        assert max(map(cell_width, out.splitlines())) <= 80, out
        assert len(out.splitlines()) < 80
        assert all(line == line.rstrip() for line in out.splitlines())
        assert "\x07" not in out


def test_a_pattern_as_a_reader_sees_it(capsys, trace):
    _, out, _ = run(capsys, TEXT, "--show", "blocks.1.attn.hook_pattern", "--head", "2")
    lines = out.splitlines()
    assert lines[0] == "h.1.attn.pattern, head 2"
    assert lines[2].split() == [r"query\key", *"0 |E| 1 |lizabeth| 2 | was| 3 | not|".split()]
    for row, line in zip(trace["h.1.attn.pattern"][2], lines[3:], strict=True):
        assert [float(x) for x in line.split()[-4:]] == pytest.approx(row, rel=1e-3)
    _, out, _ = run(capsys, TEXT, "--show", "h.1.attn.pattern", "--pos", "-1")
    assert out.splitlines()[2].split() == [r"key\head", "0", "1", "2", "3"]  # positions go down


def test_what_is_left_out_is_said(capsys, trace):
    _, out, _ = run(capsys, TEXT, "--show", "embed")
    assert "shown: 6 of 192 dimensions; --json gives all, --png FILE draws it" in out
    _, out, _ = run(capsys, TEXT, "--show", "embed", "--pos", "0")
    assert "shown:" not in out
    _, out, _ = run(capsys, AWKWARD[1], "--show", "h.1.attn.z")
    assert "1 of 4 heads" in out
    assert "60 of 196 pos" in out
    _, out, _ = run(capsys, TEXT, "--show", "logits", "--pos", "-1")
    assert "the 20 largest of 2,048" in out
    assert out.splitlines()[3].split("|")[1] == trace.top(1)[0][0]  # the likeliest comes first


@pytest.mark.parametrize("n", [1, 8, 9, 479, 480, 481, 3072])
def test_one_axis_of_any_length(n):
    values = np.arange(n) / 8
    out = excerpt(NamedArray(values, ("d_mlp",), {}, "title"))
    rows = [line.split() for line in out.splitlines()[2:] if line.strip()[0].isdigit()]
    shown = [float(x) for row in rows for x in row[1:]]
    if n <= 480:
        assert shown == pytest.approx(values.tolist(), rel=1e-3)
        assert "shown" not in out
    else:
        assert shown[0] == 0
        assert shown[-1] == pytest.approx(values[-1], rel=1e-3)
        assert "…" in out
        assert f"shown: 480 of {n:,} d_mlp" in out
    for row in rows:
        assert float(row[1]) == pytest.approx(int(row[0]) / 8, rel=1e-3)


def test_several_sites(capsys, trace):
    found = facts(capsys, TEXT, "--show", "wte", "--show", "h.0.attn.q", "--show", "hook_embed")
    assert list(found["sites"]) == ["wte", "h.0.attn.q"]
    _, out, _ = run(capsys, TEXT, "--show", "wte", "--show", "wpe")
    assert out.split("\n\n")[1].startswith("wpe\n")


def test_double_precision(capsys, tiny64):
    found = facts(capsys, TEXT, "--show", "ln_f", "--dtype", "float64")
    np.testing.assert_array_equal(found["sites"]["ln_f"]["values"], tiny64.trace(TEXT)["ln_f"])


PICTURES = [
    ["h.1.attn.pattern", "--head", "2"],
    ["h.1.attn.scores", "--head", "2"],
    ["h.1.attn.pattern", "--pos", "-1"],
    ["h.2.resid_post"],
    ["h.2.resid_post", "--pos", "0"],
    ["loss"],
    ["logits"],
    ["logits", "--pos", "-1"],
]


@pytest.mark.needs("matplotlib")
@pytest.mark.parametrize("argv", PICTURES, ids=" ".join)
def test_pictures(capsys, tmp_path, argv):
    path = tmp_path / "p.png"
    code, out, err = run(capsys, TEXT, "--show", *argv, "--png", str(path))
    assert code == 0
    assert out
    assert f"wrote {path}" in err
    assert path.read_bytes()[:4] == b"\x89PNG"


MATPLOTLIB = pytest.mark.needs("matplotlib")
WRONG = [
    (["--show", "h.1.attn.patern"], "the nearest is"),
    (["--show", "h.4.attn.z"], "layer 4 is not one of 0 to 3"),
    (["--show", "patern"], "the nearest is 'pattern'"),
    (["--show", ""], "no site is called"),
    (["--show", "hidden_states[5]"], "layer 5 is not one of 0 to 3"),
    (["--show", "token_ids"], "`gpt2np tokenize`"),
    (["--show", "embed", "--head", "0"], "embed has no heads"),
    (["--show", "h.1.attn.z", "--head", "4"], "head 4 is not one of 0 to 3"),
    (["--show", "h.1.attn.z", "--head", "x"], "'x' is not the number of a head"),
    (["--show", "h.1.attn.z", "--pos", "4"], "position 4 is not one of the 4"),
    (["--show", "h.1.attn.z", "--pos", "all"], "invalid int value"),
    (["--show", "h.1.attn.z", "--keep", "*"], "--keep does not go with --show"),
    (["--show", "h.1.attn.z", "--out", "t.safetensors"], "--out does not go with --show"),
    (["--show", "h.1.attn.z", "--top", "3"], "--top does not go with --show"),
    pytest.param(
        ["--show", "Q", "--png", "p.png"], "4 are to be shown, such as h.0.attn.q", marks=MATPLOTLIB
    ),
    pytest.param(["--show", "h.1.attn.z", "--png", "p.png"], "pick a --head", marks=MATPLOTLIB),
    pytest.param(["--show", "loss", "--pos", "0", "--png", "p.png"], "leave out --pos", marks=MATPLOTLIB),
    pytest.param(
        ["--show", "wte", "--show", "wpe", "--png", "p.png"], "--png draws one site", marks=MATPLOTLIB
    ),
    (["--show", "wte", "--png", "p.gif"], "p.gif"),
    pytest.param(["--show", "wte", "--png", "/dev/null/p.png"], "cannot be written", marks=MATPLOTLIB),
    (["--head", "1"], "--head goes with --show"),
    (["--pos", "1"], "--pos goes with --show"),
    (["--png", "p.png"], "--png goes with --show"),
]


@pytest.mark.parametrize(("argv", "says"), WRONG, ids=lambda x: " ".join(x) if isinstance(x, list) else None)
def test_wrong_input_is_one_line_and_exit_2(capsys, monkeypatch, tmp_path, argv, says):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, TEXT, *argv)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    assert says in err.strip().splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


OF_SEVERAL = {
    "Q": [f"h.{i}.attn.q" for i in range(4)],
    "attn.z": [f"h.{i}.attn.z" for i in range(4)],
    "attention_weights": [f"h.{i}.attn.pattern" for i in range(4)],
    "layer_3_Q": ["h.3.attn.q"],
    "layer_*_mlp_hidden": [f"h.{i}.mlp.pre" for i in range(4)],
    "hidden_states": ["embed", *(f"h.{i}.resid_post" for i in range(4)), "ln_f"],
    "hidden_states[1]": ["h.0.resid_post"],
    "attentions[2]": ["h.2.attn.pattern"],
    "past_key_values[1]": ["h.1.attn.k", "h.1.attn.v"],
    "blocks.2.hook_resid_mid": ["h.2.resid_mid"],
    "final_layer_norm": ["ln_f"],
}


@pytest.mark.parametrize(("name", "expected"), OF_SEVERAL.items(), ids=OF_SEVERAL)
def test_names_of_several_sites(capsys, tiny, name, expected):
    code, out, _ = run(capsys, TEXT, "--show", name, "--json")
    assert code == 0
    found = json.loads(out)["sites"]
    assert list(found) == expected
    trace = tiny.trace(TEXT)
    for site, told in found.items():
        np.testing.assert_allclose(told["values"], trace[site], rtol=1e-5, atol=1e-6)
    code, out, _ = run(capsys, TEXT, "--show", name)
    assert [line.split(",")[0] for line in out.splitlines() if line.split(",")[0] in expected] == expected


@pytest.mark.parametrize("k", [1, 3, 2048])
def test_the_number_of_likeliest_tokens_can_be_chosen(capsys, tiny, k):
    code, out, _ = run(capsys, TEXT, "--show", "top_k_tokens", "--top", str(k), "--json")
    expected = np.argsort(-tiny.trace(TEXT)["logits"], axis=-1, kind="stable")[:, :k]
    assert code == 0
    assert np.array_equal(json.loads(out)["sites"]["top_k_tokens"]["values"], expected)
    assert np.array_equal(tiny.trace(TEXT).top_k_tokens(k), expected)
