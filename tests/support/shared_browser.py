"""One Chromium for the tests of many files: it starts when the first of them asks for it."""

from contextlib import ExitStack

import pytest
from support.viewer_browser import browser


def shared_browser(config):
    """The browser of this process, a plugin of pytest."""
    plugins = config.pluginmanager
    if not plugins.has_plugin("shared browser"):
        plugins.register(SharedBrowser(), "shared browser")
    return plugins.get_plugin("shared browser")


class SharedBrowser:
    """A Chromium that runs until a file comes whose tests do not want it."""

    def __init__(self):
        self._stack, self._running = ExitStack(), None

    def start(self):
        """The browser, started if it does not run."""
        if self._running is None:
            self._running = self._stack.enter_context(browser())
        return self._running

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item, nextitem):
        """End it in time: Playwright's event loop is in the way of tests that need one of their own."""
        try:
            return (yield)
        finally:
            if self._running and not (nextitem and _wanted(item, nextitem)):
                self._running = None
                self._stack.close()


def _wanted(item, nextitem):
    """Whether the file of the next test has the browser open, or a test that asks for it."""
    return nextitem.path == item.path or any(
        "chromium" in each.fixturenames for each in item.session.items if each.path == nextitem.path
    )
