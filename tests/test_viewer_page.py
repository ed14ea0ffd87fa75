"""The page in a real browser: its numbers are the trace's, and whatever is chosen, everything follows."""

import pytest
from viewer_browser import browser, needs_browser, visit

import gpt2np

pytestmark = needs_browser
TEXT = "Elizabeth was not sorry that Mr. Darcy was"


@pytest.fixture(scope="module")
def chromium():
    with browser() as running:
        yield running


@pytest.fixture(scope="module")
def trace(tiny):
    return tiny.trace(TEXT)


@pytest.fixture(scope="module")
def path(trace, tmp_path_factory):
    path = tmp_path_factory.mktemp("view") / "page.html"
    gpt2np.view(trace, out=path)
    return path


def test_opens_offline_without_a_word_on_the_console(chromium, path, trace):
    with visit(chromium, path) as page:
        assert page.js("() => window.gpt2np.run.tokens") == trace.tokens
        assert page.page.locator("[role=tab]").count() == 8
