"""What several files of tests share: a browser, and the live page of `tiny`."""

import pytest
from support.viewer_browser import browser

import gpt2np


@pytest.fixture(scope="module")
def chromium():
    with browser() as running:
        yield running


@pytest.fixture(scope="session")
def live_path(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("live") / "live.html"
    gpt2np.view(tiny, out=path)
    return path
