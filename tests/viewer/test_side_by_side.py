"""Two texts side by side in one page: its numbers are those of the functions, whatever stands beside what."""

import numpy as np
import pytest
from support import gemma2_checkpoint, gpt_neo_checkpoint
from support.command_line import run
from support.paper import print_page, sheets
from support.random_model import random_model
from support.viewer_browser import data_of, visit

import gpt2np
from gpt2np.analysis.two_prompts import (
    alignment,
    attention_difference,
    divergence,
    lens_difference,
    prediction_difference,
    stream_distance,
)
from gpt2np.errors import InputError
from gpt2np.viewer.detail_levels import LEVELS, layout
from gpt2np.viewer.page_data import Data, sizes_of

TEXT = "Elizabeth was not sorry that Mr. Darcy was"
SAME, OTHER = "Elizabeth was not happy that Mr. Darcy was", "I was not at all sorry that Mr. Collins"
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> {{style}}"


@pytest.fixture(scope="module")
def runs(tiny):
    return tiny.trace([TEXT, OTHER])


@pytest.fixture(scope="module")
def path(runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("view") / "page.html"
    gpt2np.view(runs[0], against=runs[1], out=path)
    return path


@pytest.mark.parametrize("other", [TEXT, SAME, OTHER, "Elizabeth", f"{TEXT} not"])
def test_what_the_page_has_are_the_functions_numbers(tiny, runs, other):
    trace, there = runs[0], tiny.trace(other)
    facts, arrays = data_of(gpt2np.view(trace, against=there).html)
    told, columns = facts["against"], alignment(trace, there)
    ends = (len(trace.token_ids) - 1, len(there.token_ids) - 1)
    assert [tuple(pair) for pair in told["columns"]] == columns + [ends] * told["ends"]
    assert told["ends"] == (ends not in columns)
    assert told["ids"] == there.token_ids
    assert facts["missing"] == {}
    n = len(told["columns"])
    for column in {0, n // 2, n - 1}:
        at = told["columns"][column]
        if None in at:
            assert np.isnan(arrays["apart:stream"][:, column]).all()
            assert np.isnan(arrays["apart:p"][column]).all()
            continue
        np.testing.assert_allclose(
            arrays["apart:stream"][:, column], stream_distance(trace, there, *at).array, rtol=1e-5, atol=1e-6
        )
        apart = prediction_difference(trace, there, at[0], 10, at[1])
        assert [trace.token(i) for i in arrays["apart:id"][column].tolist()] == apart.labels["token"]
        np.testing.assert_allclose(arrays["apart:p"][column], apart.array[:, :2], rtol=1e-5)
        both = divergence(trace, there, *at), divergence(there, trace, *at[::-1])
        np.testing.assert_allclose(arrays["apart:divergence"][column], both, rtol=1e-5, atol=1e-7)
        pair = tuple(arrays["apart:pair"][column].tolist())
        assert pair[0] == trace.top(1, at[0])[0][1]
        assert pair[1] in (there.top(1, at[1])[0][1], trace.top(2, at[0])[1][1])
        expected = lens_difference(trace, there, pair, *at).array
        np.testing.assert_allclose(arrays["apart:logit"][column], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.needs("playwright", "chromium")
def test_what_is_read_are_the_functions_numbers(chromium, runs, path, tmp_path):
    trace, other = runs
    with visit(chromium, path) as page:
        assert page.focus["panel"] == "against"
        words = page.page.locator(".both")
        assert words.count() == len(alignment(trace, other))
        assert page.page.locator(".both.differs").count() == sum(
            a is None or b is None or trace.token_ids[a] != other.token_ids[b]
            for a, b in alignment(trace, other)
        )
        said = page.text("#panel-against .answer")
        for each in runs:
            assert f"{100 * each.top(1)[0][2]:.2f} %" in said
        likeliest = page.page.locator(".of-second .bar .value").all_inner_texts()[:10]
        assert likeliest == [f"{100 * p:.2f} %" for _, _, p in other.top(10)]

        page.page.get_by_role("button", name="first: ‘\u2068·that\u2069’ at 6, second").click()
        at = (6, other.token_ids.index(trace.token_ids[6]))
        assert page.focus["pos"] == 6
        page.show(layer=1, head=2)
        table = page.page.locator(".apart td").all_inner_texts()
        shown = [float(cell.replace("−", "-")) for cell in table]
        assert shown == pytest.approx(stream_distance(trace, other, *at).array.ravel(), rel=1e-3, abs=1e-4)
        cells = page.page.locator(".attention-apart .grid button").all_inner_texts()
        apart = attention_difference(trace, other, *at).array
        assert [float(cell) for cell in cells] == pytest.approx(apart.ravel(), abs=0.0051)
        assert f"Layer 1, head 2 in both: {apart[1, 2]:.3g}" in page.text(".attention-apart h3 >> nth=1")
        looked = page.page.locator(".two-patterns .of-second .value").first.inner_text()
        assert float(looked.split()[0]) == pytest.approx(
            100 * other["h.1.attn.pattern"][2, at[1]].max(), abs=0.06
        )

        alone = page.page.get_by_role("button", name="first: nothing").first
        alone.click()
        assert "One of the texts has no token" in page.text(".apart")
        page.show(pos=3)  # and on from there
        assert "In the chosen column: distance" in page.text(".apart")
        page.page.keyboard.press("ArrowRight")
        assert page.focus["pos"] == 4


@pytest.fixture(scope="module")
def hostile(tiny, tmp_path_factory):
    """The page of a long hostile text and a short one, and whether it has a column for their ends."""
    one, two = tiny.trace(tiny.tokenizer.encode(f"日本 🙂 {HOSTILE} " * 8)[:200]), tiny.trace(HOSTILE)
    path = tmp_path_factory.mktemp("hostile") / "p.html"
    gpt2np.view(one, against=two, out=path)
    return path, (199, len(two.token_ids) - 1) not in alignment(one, two)


@pytest.mark.needs("playwright", "chromium")
@pytest.mark.parametrize("size", [(390, 844), (1280, 900)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_hostile_and_long_texts_stay_text_and_in_the_page(chromium, hostile, size, scheme):
    path, ends = hostile
    view = {"viewport": dict(zip(("width", "height"), size, strict=True)), "color_scheme": scheme}
    with visit(chromium, path, **view) as page:
        assert page.js("() => document.documentElement.scrollWidth") <= size[0]
        assert page.js("() => document.querySelectorAll('img, #page script').length") == 0
        assert page.page.locator("#panel-against .absent").count() == 0
        assert page.page.locator(".both.ends").count() == ends
        grid = page.page.locator(".apart-grid canvas").bounding_box()
        assert grid["width"] <= size[0]
        page.page.locator(".apart-grid canvas").click(position={"x": 65, "y": 30})
        assert page.focus["pos"] == 0
        if size[0] == 390:
            small = "() => [...document.querySelectorAll('.both')].map(e => e.getBoundingClientRect().height)"
            assert min(page.js(small)) >= 40


@pytest.mark.needs("playwright", "chromium")
@pytest.mark.parametrize("kind", ["gpt_neo", "gemma2"])
def test_other_architectures(chromium, kind, tmp_path):
    support = {"gpt_neo": gpt_neo_checkpoint, "gemma2": gemma2_checkpoint}[kind]
    model = gpt2np.load(support.write(tmp_path / "m"))
    trace, other = model.trace([5, 17, 17, 30, 2, 8, 3]), model.trace([5, 17, 30, 2, 9])
    gpt2np.view(trace, against=other, out=tmp_path / "p.html")
    with visit(chromium, tmp_path / "p.html") as page:
        assert page.page.locator("#panel-against .absent").count() == 0
        cells = [float(x) for x in page.page.locator(".attention-apart .grid button").all_inner_texts()]
        assert cells == pytest.approx(attention_difference(trace, other).array.ravel(), abs=0.0051)
        assert ("before the cap" in page.text("#panel-against")) == (kind == "gemma2")
        pair = page.js("() => Array.from(gpt2np.run.at('apart:pair', gpt2np.run.against.columns.length - 1))")
        difference = lens_difference(trace, other, tuple(pair)).array[-1]
        one, two = (f"{x:+.2f}".replace("-", "−") for x in difference)
        assert f"first {one}, second {two}" in page.text("#panel-against figcaption")


@pytest.mark.needs("playwright", "chromium")
@pytest.mark.needs("pdftotext")
def test_it_prints(chromium, tiny, path, tmp_path):
    from viewer.test_print import WIDEST, squeezed

    words = squeezed("".join(sheets(print_page(chromium, path))))
    assert "Sidebyside" in words
    for heading in (
        "Wherethetwostreamspart",
        "Headsthatlookelsewhere",
        "Tokenswhoseprobabilitydiffersmost",
    ):
        assert heading in words
    with visit(chromium, path, viewport={"width": 800, "height": 1100}) as page:
        page.js("() => dispatchEvent(new Event('beforeprint'))")
        assert page.js(WIDEST) <= 801
        page.js("() => dispatchEvent(new Event('afterprint'))")


def test_every_level_has_the_arrays_of_its_layout(runs):
    one, two = runs
    for level in (LEVELS[0], LEVELS[8], LEVELS[-1]):
        data = Data(one, one, level, two)
        assert data.arrays.keys() == layout(sizes_of(one, two), level).keys()


@pytest.mark.needs("playwright", "chromium")
def test_without_its_model_the_page_has_what_it_can(chromium, runs, tmp_path):
    for name, trace in zip("ab", runs, strict=True):
        trace.save(tmp_path / f"{name}.safetensors")
    one, two = (gpt2np.Trace.open(tmp_path / f"{name}.safetensors") for name in "ab")
    gpt2np.view(one, against=two, out=tmp_path / "p.html")
    with visit(chromium, tmp_path / "p.html") as page:
        assert page.page.locator(".apart td").count() == 6 * 4
        assert "needs the model's weights" in page.text("#panel-against .absent")


@pytest.mark.needs("playwright", "chromium")
def test_an_edited_run_and_a_generation(chromium, tiny, tmp_path):
    edited = tiny.trace(TEXT, edits={"h.1.attn.z": lambda z: z * 0})
    gpt2np.view(tiny.trace(TEXT), against=edited, out=tmp_path / "p.html")
    options = {"max_new_tokens": 4, "keep": "*", "ledger": True}
    done = [tiny.generate(text, **options).finish() for text in (TEXT, OTHER)]
    gpt2np.view(done[0], against=done[1], out=tmp_path / "g.html", show="generation")
    with visit(chromium, tmp_path / "p.html") as page:
        assert "The second run was edited: h.1.attn.z" in page.text("#panel-against")
    with visit(chromium, tmp_path / "g.html") as page:
        assert page.focus["panel"] == "generation"
        page.show(panel="against")
        shown = page.js("() => gpt2np.run.against.tokens")
        assert shown == done[1].trace.tokens


@pytest.mark.needs("playwright", "chromium")
def test_it_opens_at_both_ends_and_says_where_nothing_differs(chromium, tiny, runs, tmp_path):
    gpt2np.view(runs[0], against=f"{TEXT} not", out=tmp_path / "begins.html")
    gpt2np.view(runs[0], against=TEXT, out=tmp_path / "same.html")
    alike = "None differs here", "No head looks elsewhere", "the two streams are the same"
    with visit(chromium, tmp_path / "begins.html") as page:
        assert page.page.locator(".both.ends[aria-pressed=true]").count() == 1
        assert not any(said in page.text("#panel-against") for said in alike)
        assert "1 token has none beside it" in page.text("#panel-against .intro")
        assert "Grey: a token that stands alone" in page.text(".apart")
        found = page.js(
            "() => { const { run } = gpt2np, last = run.against.columns.length - 1;"
            " return Array.from({ length: run.L + 2 }, (_, i) => run.at('apart:stream', i, last)[1]); }"
        )
        most = int(np.argmax(found))
        said = page.text(".apart > p >> nth=1")
        assert ("than anywhere" in said) == (most in (0, len(found) - 1))
        assert f"{max(found):.3g}" in said
        page.page.locator(".both").nth(-3).click()
        assert all(said in page.text("#panel-against") for said in alike)
    with visit(chromium, tmp_path / "same.html") as page:
        assert all(said in page.text("#panel-against") for said in alike)


def test_what_cannot_be_held_against_a_run(tiny, runs):
    with pytest.raises(InputError, match="different models"):
        gpt2np.view(runs[0], against=random_model(0).trace([1, 2]))
    with pytest.raises(InputError, match="stop at the same layer"):
        gpt2np.view(runs[0], against=tiny.trace(TEXT, stop_at_layer=2))
    with pytest.raises(InputError, match="leave out compact or against"):
        gpt2np.view(runs[0], against=OTHER, compact=True)
    with pytest.raises(InputError, match="neither compact, model nor against"):
        gpt2np.view(tiny, against=OTHER)
    with pytest.raises(InputError, match="view shows a Trace or a Generated, not int"):
        gpt2np.view(runs[0], against=3)
    with pytest.raises(InputError, match="no such panel"):
        gpt2np.view(runs[0], show="against")


WRONG = [
    (["--live"], "--against is not for --live"),
    (["--poster", "p.html"], "--poster shows one run: leave out --against"),
    (["--keep", "Q"], "--keep has no use here"),
]


@pytest.mark.parametrize(("more", "said"), WRONG)
def test_options_that_do_not_go_with_it(capsys, monkeypatch, tmp_path, more, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "view", TEXT, "--against", OTHER, "--no-open", *more)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_on_the_command_line(capsys, monkeypatch, tmp_path, runs):
    monkeypatch.chdir(tmp_path)
    for option in ("--trace", "--generation"):
        code, _, err = run(capsys, "view", option, "t.safetensors", "--against", OTHER)
        assert (code, len(err.splitlines())) == (2, 1)
        assert "it goes with neither --trace nor --generation" in err
    code, _, err = run(capsys, "view", TEXT, "--against", "", "--no-open")
    assert (code, err.splitlines()[-1]) == (
        2,
        "gpt2np: --against: the prompt is empty: it needs at least one token",
    )
    for more in ([], ["--max-new-tokens", "2"]):
        code, _, _ = run(
            capsys, "view", TEXT, "--against", OTHER, "--no-open", "--out", "p.html", "--force", *more
        )
        assert code == 0
        facts, _ = data_of((tmp_path / "p.html").read_text("utf-8"))
        assert facts["against"]["tokens"][: len(runs[1].tokens)] == runs[1].tokens
        assert len(facts["against"]["tokens"]) == len(runs[1].tokens) + (1 if more else 0)
