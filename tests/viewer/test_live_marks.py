"""Marks of change on a live page: every panel marks what is not as before, as NumPy says of both runs."""

import subprocess

import numpy as np
import pytest
from support.live_use import TEXT, settle, swap, switch, type_in
from support.viewer_browser import visit

from gpt2np.analysis.attribution import attribution
from gpt2np.analysis.interventions import zero
from gpt2np.analysis.lens import logit_lens

pytestmark = pytest.mark.needs("playwright", "chromium")
LEAST, LAYER, POS = 0.05, 2, 9
MOVED = "elements => elements.map(each => each.classList.contains('marked'))"
ROWS = """rows => rows.filter(row => row.closest('.open'))
    .map(row => [row.dataset.site, row.classList.contains('marked')])"""


@pytest.fixture(scope="module")
def swapped(chromium, live_path, tiny):
    """The page after a swap, and NumPy's runs over both texts."""
    ids = tiny.tokenizer.encode(TEXT)
    other = [*ids[:2], tiny.tokenizer.find_id(" had"), *ids[3:]]
    with visit(chromium, live_path) as page:
        settle(page)
        swap(page, 2, "had")
        page.show(pos=POS, layer=LAYER)
        yield page, tiny.trace(ids), tiny.trace(other)


def marks(page, panel, selector):
    page.show(panel=panel)
    return page.page.locator(f"#panel-{panel} {selector}").evaluate_all(MOVED)


def far(x, y):
    """Whether any vector has moved by more than 5 % of its length."""
    return bool((np.linalg.norm(y - x, axis=-1) > LEAST * np.linalg.norm(x, axis=-1)).any())


def test_the_map_marks_vectors_and_heads(swapped):
    page, before, after = swapped
    page.show(panel="map")
    rows = dict(page.page.locator("#panel-map .row[data-site]").evaluate_all(ROWS))
    assert len(rows) == 15
    assert any(rows.values())
    for site, marked in rows.items():
        x, y = (trace[f"h.{LAYER}.{site}"] for trace in (before, after))
        if site in ("attn.scores", "attn.pattern"):
            x, y = (trace[f"h.{LAYER}.attn.pattern"][:, POS] for trace in (before, after))
            assert marked == bool((np.abs(y - x) > LEAST).any()), site
        else:
            assert marked == far(x[POS], y[POS]), site
    patterns = [trace[f"h.{LAYER}.attn.pattern"][:, POS] for trace in (before, after)]
    looks = (np.abs(patterns[1] - patterns[0]) > LEAST).any(axis=1)
    assert marks(page, "map", ".head-buttons button") == looks.tolist()
    assert "not as in the text before the swap" in page.text(".legend")


def test_attention_marks_heads(swapped):
    page, before, after = swapped
    same = [
        [np.minimum(a, b).sum(-1).mean() for a, b in zip(x, y, strict=True)]
        for x, y in zip(before.stack("attn.pattern"), after.stack("attn.pattern"), strict=True)
    ]
    expected = (1 - np.array(same) > LEAST).ravel().tolist()
    assert marks(page, "attention", ".finder .grid button") == expected
    assert 0 < sum(expected) < 16
    assert marks(page, "attention", ".small-head") == expected[4 * LAYER : 4 * LAYER + 4]


def test_the_lens_marks_other_words_and_chances(swapped):
    page, before, after = swapped
    one, other = (logit_lens(trace, k=1) for trace in (before, after))
    words = [np.array(lens.top_ids)[::2, :, 0] for lens in (one, other)]
    chances = [np.array(lens.top_probabilities)[::2, :, 0] for lens in (one, other)]
    expected = (words[0] != words[1]) | (np.abs(chances[0] - chances[1]) > LEAST)
    assert marks(page, "lens", "td button") == expected.ravel().tolist()
    assert page.page.locator("#panel-lens .path.before").count() == 1
    assert page.page.locator("#panel-lens th.changed").count() == 1


def test_contributions_mark_parts_that_push_otherwise(swapped):
    page, before, after = swapped
    token = after.top(1, pos=POS)[0][1]
    x, y = (attribution(trace, token, POS) for trace in (before, after))
    parts = [*(f"attn.head.{head}" for head in range(4)), "attn.bias", "mlp"]
    names = [f"h.{layer}.{part}" for layer in range(4) for part in parts]
    at = [list(y.labels["component"]).index(name) for name in names]
    expected = np.abs(y.array - x.array)[at] > LEAST * np.abs(y.array).max()
    assert marks(page, "contributions", ".components button") == expected.tolist()
    assert expected.any()


def test_mlp_and_residual_mark_neurons_and_lengths(swapped):
    page, before, after = swapped
    x, y = (trace[f"h.{LAYER}.mlp.post"][POS] for trace in (before, after))
    best = np.argsort(-y, kind="stable")[:12]
    expected = np.abs(y - x)[best] > LEAST * y.max()
    assert marks(page, "mlp", ".lists > div:first-child .bar") == expected.tolist()
    lengths = np.array(
        [
            [
                [np.linalg.norm(trace[f"h.{i}.{site}"][POS]) for i in range(4)]
                for site in ("attn.out", "mlp.out")
            ]
            for trace in (before, after)
        ]
    )
    expected = np.abs(lengths[1] - lengths[0]) > LEAST * lengths[1].max()
    assert marks(page, "residual", ".lists .bar") == expected.ravel().tolist()
    assert page.page.locator("#panel-residual .path.before").count() == 2


def test_marks_can_be_turned_off_and_are_told_to_those_who_do_not_see_them(swapped):
    page, _, _ = swapped
    page.show(panel="attention")
    marked = page.page.locator("#panel-attention .marked")
    assert marked.count() > 0
    assert {each.get_attribute("aria-description") for each in marked.all()} == {"changed"}
    page.page.get_by_label("mark what changed").uncheck()
    assert page.page.locator("#panel-attention .marked").count() == 0
    assert page.page.locator(".word.changed").count() == 0
    page.page.get_by_label("mark what changed").check()
    assert marked.count() > 0
    page.show(panel="glossary")
    assert not page.page.locator(".legend").is_visible()


def test_a_new_position_has_nothing_to_be_compared_with(chromium, live_path):
    with visit(chromium, live_path) as page:
        settle(page)
        assert not page.page.locator(".legend").is_visible()
        page.page.wait_for_timeout(1300)  # the text has settled: it is what the next is compared with
        type_in(page, f"{TEXT} angry")
        assert "The chosen position is new" in page.text(".legend")
        page.show(pos=3)
        assert "The chosen position is new" not in page.text(".legend")
        for panel in ("map", "attention", "lens", "contributions", "mlp", "residual"):
            page.show(panel=panel)  # a token to the right changes nothing of those before it
            assert page.page.locator(f"#panel-{panel} :is(.row, .components, td) .marked").count() == 0


@pytest.mark.parametrize(
    ("part", "edits"),
    [
        ("layer 0 head 3", {"h.0.attn.z": zero(heads=[3])}),
        ("layer 1 MLP", {"h.1.mlp.out": zero()}),
        ("Hide the chosen position", None),
    ],
)
def test_what_is_off_is_compared_side_by_side_with_the_whole_model(chromium, live_path, tiny, part, edits):
    def hide(array, where):
        array = array.copy()
        array[:, np.array(where.positions) > 4, 4] = -np.inf
        return array

    ids = tiny.tokenizer.encode(TEXT)
    whole = tiny.trace(ids)
    less = tiny.trace(ids, edits=edits or {f"h.{i}.attn.scores": hide for i in range(4)})
    with visit(chromium, live_path) as page:
        settle(page)
        page.show(pos=4)
        switch(page, part)
        page.show(pos=POS, panel="changes")
        losses = [float(np.nanmean(trace["loss"])) for trace in (whole, less)]
        assert f"Against the whole model. Loss of the text: {losses[0]:.3f} → {losses[1]:.3f}" in page.text(
            ".changes .answer"
        )
        pairs = page.page.locator(".changes .pair").evaluate_all(
            "pairs => pairs.map(pair => Array.from(pair.querySelectorAll('.value'), v => v.textContent))"
        )
        word, _, p = less.top(1, pos=POS)[0]
        assert [f"{100 * p:.2f} %"] == [now for _, now in pairs if now == f"{100 * p:.2f} %"], word
        old = {f"{100 * q:.2f} %" for _, _, q in whole.top(10, pos=POS)}
        assert {was for was, _ in pairs if was != "small"} <= old
        moved = np.linalg.norm(less["h.3.resid_post"] - whole["h.3.resid_post"], axis=1)
        share = moved / np.linalg.norm(whole["h.3.resid_post"], axis=1)
        said = page.page.locator(".changes .moved button").nth(4 * len(ids) + POS).get_attribute("aria-label")
        assert said.endswith(f"moved by {float(f'{100 * share[POS]:.3g}'):g} % of its length")
        page.show(panel="lens")
        assert page.page.locator("#panel-lens td .marked").count() > 0
        assert "not as in the whole model" in page.text(".legend")


@pytest.mark.needs("pdftotext")
def test_marks_and_what_they_mean_are_printed(swapped, tmp_path):
    page, _, _ = swapped
    path = tmp_path / "page.pdf"
    page.page.pdf(path=path, format="A4")
    text = subprocess.run(["pdftotext", path, "-"], capture_output=True, check=True).stdout.decode("utf-8")
    assert "not as in the text before the swap" in " ".join(text.split())
    assert text.count("◥") > 20
