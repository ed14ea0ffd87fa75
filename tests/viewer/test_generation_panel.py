"""The panel of a generation: the beams that lost, and what penalties changed, are those of the generation."""

import numpy as np
import pytest
from support.viewer_browser import data_of, visit

import gpt2np
from gpt2np.generation.filters import penalize_presence, penalize_repetition
from gpt2np.generation.saved_generation import saved_generation

pytestmark = pytest.mark.needs("playwright", "chromium")
TEXT = "Elizabeth was not sorry that she was"


@pytest.fixture(scope="module")
def searched(tiny):
    options = {"num_beams": 4, "repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "keep": "*"}
    return tiny.generate("Elizabeth was", max_new_tokens=10, **options).finish()


def number(text):
    return float(text.replace("−", "-"))


def test_the_beams_that_lost_step_by_step(chromium, tiny, searched, tmp_path):
    gpt2np.view(searched, out=tmp_path / "p.html", show="generation")
    beams, n = searched.beams, searched.n_prompt
    with visit(chromium, tmp_path / "p.html") as page:
        texts = page.page.locator(".beams-left td.whole").all_inner_texts()
        assert len(texts) == len(beams.hypotheses) == 4
        scores = page.page.locator(".beams-left td:nth-child(2)").all_inner_texts()
        assert [number(score) for score in scores] == pytest.approx(
            [text.score for text in beams.hypotheses], abs=6e-5
        )
        before = [tuple(searched.token_ids[:n])]
        for i, step in enumerate(beams.steps):
            page.show(pos=n - 1 + i)
            live = [(*before[each.parent], each.token_id) for each in step.live]
            rows = page.page.locator(".rival-beams .bar")
            assert rows.count() == len(step.live) + len(step.ended)
            shown = [number(text) for text in rows.locator(".value").all_inner_texts()]
            expected = [each.score for each in (*step.live, *step.ended)]
            assert shown == pytest.approx(expected, abs=6e-4)
            names = rows.locator(".name").all_inner_texts()
            for ids, name in zip(live, names, strict=False):
                assert name.startswith("✓") == (list(ids) == searched.token_ids[: len(ids)])
                last = tiny.tokens([ids[-1]])[0].strip()
                assert last in name
            before = live
        assert "log-probabilities changed" in page.text(".penalized")


def test_a_saved_search_says_that_the_others_are_gone(chromium, searched, tiny, tmp_path):
    searched.trace.save(tmp_path / "t.safetensors")
    opened = saved_generation(gpt2np.Trace.open(tmp_path / "t.safetensors", model=tiny))
    gpt2np.view(opened, out=tmp_path / "p.html", show="generation")
    with visit(chromium, tmp_path / "p.html") as page:
        assert "A file does not keep those that lost." in page.text("#panel-generation .lists")


def test_what_penalties_changed(chromium, tiny, tmp_path):
    options = {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.2}
    done = tiny.generate(
        TEXT, max_new_tokens=8, temperature=0.8, seed=1, keep="*", ledger=True, **options
    ).finish()
    gpt2np.view(done, out=tmp_path / "p.html", show="generation")
    with visit(chromium, tmp_path / "p.html") as page:
        for i in (0, 3, 7):
            page.show(pos=done.n_prompt - 1 + i)
            context = done.token_ids[: done.n_prompt + i]
            raw = done.trace["logits"][len(context) - 1].astype(np.float32)
            once = penalize_repetition(raw, context, 1.3)
            twice = penalize_presence(once, context[done.n_prompt :], 0.5, 0.2)
            tables = page.page.locator(".penalized > div")
            for table, (before, after) in zip(tables.all(), ((raw, once), (once, twice)), strict=True):
                n = int((before != after).sum())
                said = table.inner_text()
                assert (f"{n} logits changed" in said) == (n > 1)
                cells = [number(cell) for cell in table.locator("td").all_inner_texts()]
                change = np.abs(before.astype(np.float64) - after)
                largest = np.argsort(-change, kind="stable")[: min(10, n)]
                expected = np.stack([before, after, after - before], axis=1)[largest]
                assert cells == pytest.approx(expected.ravel(), abs=6e-4)
        assert "changed" in page.text("#panel-generation .funnel li")


def test_a_page_without_logits_has_no_penalties(tiny):
    done = tiny.generate(TEXT, max_new_tokens=3, keep="attn.*", repetition_penalty=1.3).finish()
    facts, _ = data_of(gpt2np.view(done).html)
    assert [step["penalized"] for step in facts["generation"]["steps"]] == [[], [], []]
