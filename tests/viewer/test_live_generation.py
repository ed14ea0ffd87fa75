"""A generation on a live page: choice by choice, cut short by a switch or another text, till it is full."""

import re
import shlex

import pytest
from support.live_use import TEXT, logits_match, settle, type_in
from support.viewer_browser import visit

from gpt2np.analysis.interventions import zero
from gpt2np.cli import main

pytestmark = pytest.mark.needs("playwright", "chromium")
GENERATING = "() => document.querySelector('.growing .token')"


def test_a_generation_is_shown_choice_by_choice_and_named_as_a_command(chromium, live_path, capsys):
    with visit(chromium, live_path) as page:
        settle(page)
        page.page.get_by_label("tokens", exact=True).fill("6")
        page.page.get_by_label("seed").fill("-1")
        page.page.get_by_role("button", name="Generate").click()
        page.until("() => /seed: .* is not possible/.test(document.querySelector('.generating').textContent)")
        page.page.get_by_label("seed").fill("3")
        page.page.get_by_role("button", name="Generate").click()
        page.until("() => Boolean(gpt2np.run.generation)")
        settle(page, "document.querySelector('.command').textContent")
        assert page.focus["panel"] == "generation"
        assert page.js("() => gpt2np.run.generation.steps.length") == 6
        command = page.text(".command")
        assert command.startswith(f"gpt2np generate '{TEXT}' --max-new-tokens 6 --temperature 0.8")
        assert "top-k" in page.text(".generation .funnel")
        capsys.readouterr()
        assert main(shlex.split(command)[1:]) == 0
        assert page.page.locator("textarea").input_value() == capsys.readouterr().out.rstrip("\n")


def test_a_switch_during_a_generation_keeps_its_tokens_and_another_text_says_that_they_are_gone(
    chromium, live_path, tiny
):
    with visit(chromium, live_path) as page:
        settle(page)
        page.page.locator(".studio summary").click()
        page.page.get_by_label("tokens", exact=True).fill("200")
        page.page.get_by_role("button", name="Generate").click()
        page.until(GENERATING)
        page.page.get_by_role("button", name="layer 0 head 3", exact=True).click()
        page.until("() => gpt2np.run.model.edits.length === 1")
        settle(page)
        told = page.text(".generating [role=status]")
        n = int(re.match(r"Stopped after (\d+) tokens?, which stay: a part was switched", told)[1])
        ids = page.js("() => gpt2np.run.ids")
        assert len(ids) == len(tiny.tokenizer.encode(TEXT)) + n
        assert page.page.locator("textarea").input_value() == tiny.tokenizer.decode(ids)
        assert f"--max-new-tokens {n} " in page.text(".command")
        assert "--zero-head" not in page.text(".command")  # they were the whole model's
        logits_match(page, tiny, ids, {"h.0.attn.z": zero(heads=[3])})

        page.page.get_by_role("button", name="Generate").click()
        page.until(GENERATING)
        page.page.locator("textarea").fill("It is")
        page.until("() => /text was changed/.test(document.querySelector('.generating').textContent)")
        assert page.js("() => gpt2np.run.prompt") == "It is"


def test_a_generation_fills_the_context_and_no_more(chromium, live_path, tiny):
    with visit(chromium, live_path) as page:
        settle(page)
        ids = (tiny.tokenizer.encode(f"{TEXT}.") * 30)[:250]
        type_in(page, tiny.tokenizer.decode(ids))
        n = page.js("() => gpt2np.run.ids.length")
        page.page.get_by_role("button", name="Generate").click()
        page.until("() => Boolean(gpt2np.run.generation)")
        page.until("() => /full/.test(document.querySelector('.generating [role=status]').textContent)")
        settle(page)
        assert f"is full: {256 - n} tokens were the most" in page.text(".generating [role=status]")
        assert page.page.locator(".ribbon .word").count() == 256
        page.page.get_by_role("button", name="Generate").click()
        page.until("() => /is full: 256 tokens/.test(document.querySelector('.generating').textContent)")
        type_in(page, page.page.locator("textarea").input_value())
        assert "256 tokens of at most 256" in page.text(".status")
