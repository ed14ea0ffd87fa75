"""What goes into a page: the layout is kept, the budget holds, numbers come back as they went in."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.random_model import random_model_with_text
from support.viewer_browser import data_of

import gpt2np
from gpt2np.analysis.attribution import attribution
from gpt2np.analysis.lens import logit_lens
from gpt2np.analysis.neurons import neuron_attribution
from gpt2np.analysis.paths import paths_through_heads
from gpt2np.architectures.gpt2.config import RELEASED, Config
from gpt2np.errors import InputError, TraceError
from gpt2np.viewer import packing, page
from gpt2np.viewer.comparison_page import MODULES as REPORT_MODULES
from gpt2np.viewer.detail_levels import (
    BUDGET,
    COMPACT_LEVELS,
    LEVELS,
    Sizes,
    budget,
    layout,
    levels_within,
    page_bytes,
)
from gpt2np.viewer.model_parts import code_lines, part_named
from gpt2np.viewer.page_data import Data, sizes_of
from gpt2np.viewer.parts_of_gpt2 import PARTS

STATIC = Path(page.__file__).parent / "static"


# -- packing --------------------------------------------------------------------------------------


def test_packing_returns_what_it_was_given():
    rng = np.random.default_rng(0)
    arrays = {kind: rng.integers(0, 100, (3, 5)).astype(dtype) for kind, dtype in packing.KINDS.items()}
    header, found = packing.unpack(packing.pack({"text": "</script> \u2028 é"}, arrays))
    assert header == {"text": "</script> \u2028 é"}
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_arrays_that_come_later_are_packed_behind_the_others():
    packer, first = packing.Packer(), {"a": np.arange(5, dtype=np.uint8), "b": np.ones((2, 3), np.float32)}
    assert packer.pack({"n": 1}, first) == packing.pack({"n": 1}, first)
    both = first | {"c": np.arange(7, dtype=np.uint32)}
    for _ in range(2):
        header, found = packing.unpack(packer.pack({"n": 2}, both))
        assert header == {"n": 2}
        assert list(found) == list(both)
        assert all(np.array_equal(found[name], array) for name, array in both.items())


@pytest.mark.needs("node")
def test_javascript_decodes_what_python_packs(tmp_path):
    rng = np.random.default_rng(1)
    arrays = {kind: rng.integers(0, 100, (3, 5)).astype(dtype) for kind, dtype in packing.KINDS.items()}
    arrays["f2"] = np.array([[0, -0.0, 1, -2.5, 65504, 6e-8, 0.1, np.inf, np.nan, 1e-4]], np.float16)
    (tmp_path / "packed.txt").write_text(packing.pack({"text": "</script>é"}, arrays))
    script = f"""
        import {{ readFileSync }} from "node:fs";
        const {{ unpack }} = await import("file://{STATIC}/run_data.js");
        const {{ header, arrays }} = await unpack(readFileSync("{tmp_path}/packed.txt", "utf8"));
        const entries = Object.entries(arrays).map(([k, a]) => [k, [a.shape, Array.from(a.data, String)]]);
        console.log(JSON.stringify([header, Object.fromEntries(entries)]));
    """
    done = subprocess.run(["node", "--input-type=module", "-e", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    header, found = json.loads(done.stdout)
    assert header == {"text": "</script>é"}
    for name, array in arrays.items():
        shape, values = found[name]
        assert shape == list(array.shape)
        np.testing.assert_array_equal(
            np.array([float(v) for v in values]).reshape(shape), array.astype(float)
        )


MODULES = sorted(STATIC.glob("*.js"))
PARSE = """
import { readFileSync } from "node:fs";
import { SourceTextModule } from "node:vm";
for (const identifier of process.argv.slice(1))
  new SourceTextModule(readFileSync(identifier, "utf8"), { identifier });
"""


@pytest.mark.needs("node")
def test_every_module_is_javascript():
    node = ["node", "--experimental-vm-modules", "--input-type=module", "-e", PARSE]
    done = subprocess.run([*node, *MODULES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_every_module_is_short_and_writes_no_markup(path):
    source = path.read_text("utf-8")
    assert len(source.splitlines()) <= 400
    assert "innerHTML" not in source
    assert "outerHTML" not in source
    assert "insertAdjacentHTML" not in source


@given(hnp.arrays(np.float32, (3, 8), elements=st.floats(-1e6, 1e6, width=32)))
@settings(max_examples=60, deadline=None)
def test_bytes_of_vectors_keep_sign_and_size(x):
    q, scale = packing.quantise(x)
    back = packing.restore(q, scale)
    root = np.cbrt(np.abs(x) / np.where(scale > 0, scale, 1)[:, None])
    allowed = scale[:, None] * (3 * (root + 0.5 / 127) ** 2 * 0.5 / 127) + 1e-6 * scale[:, None]
    assert (np.abs(back - x) <= allowed + 1e-30).all()
    assert (np.sign(back) * np.sign(x) >= 0).all()


@pytest.mark.parametrize(("kind", "most"), [("f4", 0), ("u2", 0.5001 / 65535), ("u1", 0.0042)])
def test_weights_are_as_exact_as_the_page_says(kind, most):
    weights = np.random.default_rng(2).random(1000).astype(np.float32)
    weights[:3] = 0, 1, 1e-4
    back = packing.restore_weights(packing.quantise_weights(weights, kind))
    assert np.abs(back - weights).max() <= most


@given(hnp.arrays(np.float32, (2, 23), elements=st.floats(-9, 9, width=32)), st.integers(1, 30))
@settings(deadline=None)
def test_cells_are_the_largest_of_their_group(x, cells):
    small, factor = packing.shrink(x, cells), packing.factor_of(23, cells)
    assert small.shape[-1] == -(-23 // factor) <= max(cells, 1)
    for i in range(small.shape[-1]):
        group = x[:, i * factor : (i + 1) * factor]
        np.testing.assert_array_equal(np.abs(small[:, i]), np.abs(group).max(axis=1))
        assert all(value in row for value, row in zip(small[:, i], group, strict=True))


# -- the budget -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(RELEASED))
@pytest.mark.parametrize("tokens", [1, 5, 30, 31, 100, 299, 300, 301, 700, 1024])
def test_some_level_fits_every_released_model(name, tokens):
    sizes = Sizes(RELEASED[name], tokens, RELEASED[name].n_layer)
    first = next(levels_within(sizes, budget(tokens)))
    assert page_bytes(sizes, first) <= budget(tokens)
    before = LEVELS[: LEVELS.index(first)]
    assert all(page_bytes(sizes, level) > budget(tokens) for level in before)


def test_the_budget_is_the_one_of_the_specification():
    assert BUDGET == ((30, 3_000_000), (300, 10_000_000), (1024, 20_000_000))
    assert [budget(n) for n in (5, 30, 300, 1024)] == [3_000_000, 3_000_000, 10_000_000, 20_000_000]
    assert all(budget(n) <= budget(n + 1) for n in range(1, 1200))


def test_levels_only_ever_drop_detail():
    for sizes in (Sizes(Config(), 300, 12), Sizes(Config(), 1024, 12)):
        counted = [page_bytes(sizes, level) for level in LEVELS]
        assert counted == sorted(counted, reverse=True)


@pytest.mark.parametrize(
    "level", LEVELS + COMPACT_LEVELS[:1], ids=lambda d: f"{d.cells}-{d.attention}-{d.top}"
)
def test_every_level_holds_what_its_layout_says(level):
    trace = random_model_with_text().trace(list(range(1, 14)))
    data = Data(trace, trace, level)
    assert data.missing.keys() <= {"vector attn.heads"}
    expected = layout(sizes_of(trace), level)
    assert data.arrays.keys() == {
        n for n in expected if n.split(":")[0] != "attn.heads" or level.output_cells
    }
    for name, array in data.arrays.items():
        kind, shape = expected[name]
        assert array.shape == shape, name
        assert array.dtype == np.dtype(packing.KINDS[kind]), name
    assert len(page.document("", packing.pack(data.facts, data.arrays))) <= page_bytes(sizes_of(trace), level)


# -- the numbers ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trace(tiny):
    return tiny.trace("Elizabeth was not sorry that Mr. Darcy was")


@pytest.fixture(scope="module")
def packed(trace):
    return data_of(gpt2np.view(trace).html)


def test_contributions_are_those_of_attribution(trace, packed):
    facts, arrays = packed
    for pos in (0, 4, 9):
        for i, token in enumerate(arrays["push:id"][pos].tolist()):
            expected = attribution(trace, token, pos)
            assert facts["components"] == list(expected.labels["component"])
            np.testing.assert_allclose(arrays["push"][pos, i], expected.array, rtol=1e-5, atol=1e-6)


def test_lens_and_ranks_are_those_of_logit_lens(trace, packed):
    _, arrays = packed
    whole = logit_lens(trace, k=10)
    np.testing.assert_array_equal(arrays["lens:id"], whole.top_ids.array)
    np.testing.assert_allclose(arrays["lens:p"], whole.top_probabilities.array, rtol=1e-6)
    np.testing.assert_allclose(arrays["lens:kl"], whole.kl.array, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(arrays["lens:entropy"], whole.entropy.array, rtol=1e-5, atol=1e-6)
    for pos, i in ((0, 0), (3, 7), (9, 15)):
        token = int(arrays["follow:id"][pos, i])
        alone = logit_lens(trace, token, pos=pos)
        np.testing.assert_array_equal(1 + arrays["follow:rank"][:, pos, i], alone.rank.array[:, 0])
        np.testing.assert_allclose(arrays["follow:p"][:, pos, i], alone.probability.array[:, 0], rtol=1e-6)


def test_attention_and_neurons_are_the_traces(trace, packed):
    _, arrays = packed
    lower = np.tril_indices(len(trace.token_ids))
    np.testing.assert_array_equal(arrays["pattern"][2, 1], trace["h.2.attn.pattern"][1][lower])
    np.testing.assert_array_equal(arrays["scores"][3, 0], trace["h.3.attn.scores"][0][lower])
    post = trace["h.1.mlp.post"][5]
    np.testing.assert_array_equal(arrays["neuron:post"][1, 5], np.sort(post)[::-1][:20])
    np.testing.assert_array_equal(
        arrays["neuron:pre"][1, 5], trace["h.1.mlp.pre"][5][arrays["neuron:id"][1, 5]]
    )
    assert arrays["neuron:bins"][1, 5].sum() == trace.config.d_mlp


def test_pushes_of_neurons_are_those_of_neuron_attribution(trace, packed):
    _, arrays = packed
    for layer, pos, i in ((0, 10, 0), (3, 4, 2)):
        token = int(arrays["push:id"][pos, i])
        expected = neuron_attribution(trace, token, layer, pos).array
        found = arrays["neuron:push"][layer, pos, i]
        np.testing.assert_allclose(found, expected[arrays["neuron:id"][layer, pos]], rtol=2e-3, atol=1e-4)
    pos, i = 7, 1
    token = int(arrays["push:id"][pos, i])
    every = np.stack([neuron_attribution(trace, token, layer, pos).array for layer in range(4)])
    layers, ids, pushes = (arrays[f"pusher:{name}"][pos, i] for name in ("layer", "id", "push"))
    np.testing.assert_allclose(pushes, every[layers, ids], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(pushes[:10], np.sort(every, axis=None)[::-1][:10], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(pushes[10:], np.sort(every, axis=None)[:10], rtol=1e-4, atol=1e-6)


def test_paths_are_those_of_paths_through_heads(trace, packed):
    facts, arrays = packed
    for pos, i in ((10, 0), (4, 2)):
        every = paths_through_heads(trace, int(arrays["push:id"][pos, i]), pos).array
        assert every.shape[0] == len(facts["components"]) - 1  # ln_f's bias takes no path
        at = tuple(arrays[f"path:{name}"][pos, i].astype(int) for name in ("writer", "pos", "head"))
        np.testing.assert_allclose(arrays["path:push"][pos, i], every[at], rtol=1e-4, atol=1e-6)
        largest = np.sort(np.abs(np.nan_to_num(every)), axis=None)[::-1][:12]
        np.testing.assert_allclose(np.abs(arrays["path:push"][pos, i]), largest, rtol=1e-4, atol=1e-6)


def test_the_logits_are_strips_less_their_mean(trace, packed):
    facts, arrays = packed
    logits = trace["logits"].astype(np.float64)
    wide = logits - logits.mean(axis=1, keepdims=True)
    cells = arrays["logits"].shape[1]
    assert facts["detail"]["factors"]["vocab"] == packing.factor_of(2048, cells)
    np.testing.assert_allclose(arrays["logits"], packing.shrink(wide, cells), rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(arrays["logits:stats"][:, 1:], np.stack([logits.min(1), logits.max(1)], 1))
    broken = trace.model.trace("Elizabeth was", keep=["attn.*", "embed"])
    assert "logits" in data_of(gpt2np.view(broken).html)[0]["missing"]["vector logits"]


def test_statistics_of_vectors_are_exact(trace, packed):
    _, arrays = packed
    x = trace["h.2.mlp.out"].astype(np.float64)
    np.testing.assert_allclose(arrays["mlp.out:stats"][2, :, 0], np.linalg.norm(x, axis=1), rtol=1e-6)
    np.testing.assert_allclose(arrays["mlp.out:stats"][2, :, 2], x.max(axis=1), rtol=1e-6)
    np.testing.assert_allclose(arrays["resid:norm"][0], np.linalg.norm(trace["embed"], axis=1), rtol=1e-6)
    np.testing.assert_allclose(arrays["resid:cosine"][-1], 1, rtol=1e-6)


def test_long_texts_keep_the_largest_weights_and_rank_the_same():
    trace = random_model_with_text(n_layer=1).trace(list(range(40)))
    level = next(level for level in LEVELS if level.attention == "top" and level.top == 8)
    arrays = Data(trace, trace, level).arrays
    pattern = trace["h.0.attn.pattern"]
    best = np.sort(pattern, axis=-1)[..., ::-1][..., :8]
    np.testing.assert_allclose(packing.restore_weights(arrays["pattern:weight"][0]), best, atol=1e-5)


def test_code_lines_are_those_of_the_forward_pass():
    root, lines = Path(gpt2np.__file__).parents[1], code_lines(Config())
    for part in (*PARTS, part_named(Config(), "attn.qkv")):
        code = lines[part.computed_by or part.site]
        assert code.file == "gpt2np/architectures/gpt2/forward.py"
        assert (root / code.file).read_text("utf-8").splitlines()[code.number - 1].strip() == code.text
        assert f'"{(part.computed_by or part.site).split(".")[-1]}"' in code.text
    assert len({part.site for part in PARTS}) == len(PARTS) == 20


# -- what is not there, and what is wrong ----------------------------------------------------------


def test_a_part_that_was_not_kept_is_said_to_be_missing(tiny):
    facts, arrays = data_of(gpt2np.view(tiny.trace("Elizabeth was", keep="attn.*")).html)
    assert "pattern" in arrays
    assert "resid:norm" not in arrays
    assert "was not kept" in facts["missing"]["residual"]
    assert facts["missing"].keys() >= {"lens", "push", "mlp"}


def test_an_opened_trace_takes_a_model(tiny, tmp_path):
    tiny.trace("Elizabeth was", out=tmp_path / "t.safetensors")
    opened = gpt2np.Trace.open(tmp_path / "t.safetensors")
    assert "lens" in data_of(gpt2np.view(opened).html)[0]["missing"]
    assert data_of(gpt2np.view(opened, model=tiny).html)[0]["missing"] == {}
    other = random_model_with_text()
    with pytest.raises(TraceError, match="another model"):
        gpt2np.view(opened, model=other)


def test_wrong_things_are_refused(tiny):
    with pytest.raises(InputError, match="not str"):
        gpt2np.view("Elizabeth was")
    with pytest.raises(TraceError, match="every position"):
        gpt2np.view(tiny.trace("Elizabeth was not", keep={"positions": slice(1, None)}))
    with pytest.raises(TraceError, match="nothing was recorded"):
        gpt2np.view(tiny.generate("Elizabeth", max_new_tokens=2).finish())
    with pytest.raises(TraceError, match="no layer"):
        gpt2np.view(tiny.trace("Elizabeth was", stop_at_layer=0))


def test_runs_that_stopped_early_and_broken_numbers_make_pages(tiny):
    facts, _ = data_of(gpt2np.view(tiny.trace("Elizabeth was", stop_at_layer=2)).html)
    assert facts["model"]["ran"] == 2
    assert "stopped" in facts["missing"]["lens"]
    broken = tiny.trace("Elizabeth was", edits={"h.1.mlp.out": lambda x: x * np.nan})
    assert data_of(gpt2np.view(broken).html)[0]["model"]["edits"] == ["h.1.mlp.out"]
    assert gpt2np.view(tiny.trace([5])).html  # a single token


def test_a_page_that_cannot_be_written_leaves_nothing(tiny, tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        gpt2np.view(tiny.trace("Elizabeth was"), out=tmp_path / "none" / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_notebooks_show_a_frame(tiny):
    trace = tiny.trace("Elizabeth was")
    shown = gpt2np.view(trace, compact=True)._repr_html_()
    assert shown.startswith('<iframe sandbox="allow-scripts"')
    assert len(shown) <= 1.1 * 500_000
    assert "<script" not in shown  # all of it is inside an attribute
    assert "sandbox" in gpt2np.view(trace)._repr_html_()


# -- the file -------------------------------------------------------------------------------------


def test_nothing_in_the_page_points_elsewhere(tiny):
    html = gpt2np.view(tiny.trace("Elizabeth was")).html
    assert (
        re.findall(
            r"(?:src|href|action|srcset|poster)\s*=", re.sub(r"<script.*?</script>", "", html, flags=re.S)
        )
        == []
    )
    assert "<link" not in html
    assert "@import" not in html
    assert re.findall(r"url\((?!\$\{canvas\.toDataURL\(\))", html) == []  # but what the page itself drew
    outside = set(re.findall(r"https?://[^\s\"'<)]+", html)) - {"http://www.w3.org/2000/svg"}
    assert outside == set()  # the one that is left names SVG, and is never asked for
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "connect-src 'none'" in policy
    assert "unsafe" not in policy


def test_modules_are_joined_in_a_checked_way(monkeypatch):
    text = page.bundle(tuple(page.MODULES))
    assert not re.search(r"^\s*(import|export)\b", text, re.MULTILINE)
    page.bundle(REPORT_MODULES)
    for source, message in (
        ('import x from "./data.js";\n', "not a form"),
        ("export default 3;\n", "not a form"),
        ("const el = 3;\n", "both declare el"),
        ("const tag = '</script>';\n", "end its own"),
    ):
        monkeypatch.setattr(
            page, "static", lambda name, s=source: "export function el() {}\n" if name == "drawing.js" else s
        )
        with pytest.raises(InputError, match=message):
            page.bundle(("drawing", "other"))


def test_a_page_never_replaces_what_it_was_read_from(tiny, tmp_path):
    tiny.trace("Elizabeth was", out=tmp_path / "t.safetensors")
    content = (tmp_path / "t.safetensors").read_bytes()
    page = gpt2np.view(gpt2np.Trace.open(tmp_path / "t.safetensors"))
    (tmp_path / "link.html").symlink_to(tmp_path / "t.safetensors")
    for name in ("t.safetensors", "link.html"):
        with pytest.raises(InputError, match="is read by this very run"):
            page.save(tmp_path / name)
    assert (tmp_path / "t.safetensors").read_bytes() == content
    page.save(tmp_path / "page.html")
