"""Lessons 3 to 6 send their readers to the live page, with a question: their commands open it there."""

import html
import re
import shlex
from urllib.parse import parse_qs

import pytest
from support.lesson_files import LESSONS, prose
from support.live_use import settle, swap, switch
from support.viewer_browser import visit

from gpt2np.cli import main

OPENS = {
    "3": ("Lord Tamber spoke; and then Lord Tam", {"panel": "attention", "layer": "1", "head": "0"}),
    "4": ("Elizabeth was", {"panel": "lens"}),
    "5": ("Lord Tamber spoke; and then Lord Tam", {"panel": "changes", "layer": "1", "head": "0"}),
    "6": ("Her father was so angry that", {"panel": "changes", "pos": "1"}),
}


def page_of(number, folder):
    """Run the command of a lesson: the page that it writes."""
    path = next(path for path in LESSONS if path.name.startswith(number))
    alive = prose(path).partition("**Try it alive:**")[2].partition("\n\n")[0]
    (command,) = re.findall(r"`(gpt2np view --live [^`]+)`", alive)
    assert "?" in alive, "a question"
    page = folder / f"{number}.html"
    assert main([*shlex.split(command)[1:], "--no-open", "--out", str(page)]) == 0
    return page


@pytest.mark.parametrize("number", OPENS)
def test_the_command_of_a_lesson_opens_the_live_page_at_its_question(number, tmp_path):
    written = page_of(number, tmp_path).read_text("utf-8")
    text, place = OPENS[number]
    assert f'"text": "{text}"' in written or f'"text":"{text}"' in written
    opens_at = html.unescape(re.search(r'data-opens-at="([^"]*)"', written)[1])
    assert {name: value for name, (value,) in parse_qs(opens_at).items()} == place


@pytest.mark.needs("playwright", "chromium")
def test_what_lessons_5_and_6_ask_can_be_found_there(chromium, tmp_path):
    with visit(chromium, page_of("5", tmp_path)) as page:
        settle(page)
        assert page.text(".next").startswith("next token: ber")
        switch(page, "layer 1 head 0")
        assert page.text(".next").startswith("next token: ber")
        switch(page, "layer 1 head 1")
        assert page.text(".next").startswith("next token: or")
    with visit(chromium, page_of("6", tmp_path)) as page:
        settle(page)
        assert page.focus["panel"] == "changes"
        swap(page, 1, "mother")
        assert "Her, " not in page.text(".changes")
        cells = page.page.locator(".changes .moved").first.locator("button")
        assert "moved by 0 %" in cells.nth(0).get_attribute("aria-label")
        assert re.search(
            r"after layer 3, .*that.* \(7\): moved by 1\d", cells.nth(39).get_attribute("aria-label")
        )
