"""A browser for the viewer's tests: one for many files, no network, every message of the console kept."""

import re
import time
from contextlib import contextmanager

from support import needs

from gpt2np.viewer import packing

# Two pages for its address bar, which nobody sees, took as long as a page of ours in every new context.
# The last such switch alone counts, so those behind the first two are what Playwright itself leaves out.
NOT_NEEDED = (
    "WebUIOmniboxPopup WebUIOmniboxAimPopup "
    "AimEnabled AvoidCorsURLLoaderRestartOnRedirect AvoidUnnecessaryBeforeUnloadCheckSync "
    "DestroyProfileOnBrowserClose HttpsFirstBalancedModeAutoEnable HttpsUpgrades LensOverlay MediaRouter "
    "NetworkTimeServiceQuerying OptimizationHints PaintHolding PreconnectToSearch "
    "ThirdPartyStoragePartitioning"
).split()
FLAGS = [
    *"--headless --no-sandbox --disable-gpu --disable-background-networking".split(),
    *"--disable-component-update --disable-sync --no-first-run --disable-quic".split(),
    f"--disable-features={','.join(NOT_NEEDED)}",
]


def data_of(html):
    """Header and arrays of a page."""
    return packing.unpack(re.search(r'id="data">([^<]*)<', html)[1])


@contextmanager
def browser():
    """A running Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=needs.chromium(), headless=True, args=FLAGS)
        yield chromium
        chromium.close()


class Visit:
    """An open page: `asked` are the addresses that it wanted, `said` what it wrote on the console."""

    def __init__(self, chromium, path, **options):
        self.asked, self.said = [], []
        self.context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        self.context.route("**/*", self._route)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.goto(path.as_uri())
        self.context.set_offline(True)
        self.until("() => Boolean(window.gpt2np || document.querySelector('[role=alert]'))")

    def _route(self, route):
        self.asked.append(route.request.url)
        route.continue_() if route.request.url.startswith("file:") else route.abort()

    def until(self, script, seconds=60):
        """Wait till a piece of JavaScript is true: asked from here, for the page's policy forbids `eval`."""
        end = time.monotonic() + seconds
        while not self.js(script):
            assert time.monotonic() < end, f"still not: {script}; {self.said}"
            self.page.wait_for_timeout(20)

    def js(self, script, argument=None):
        """What a piece of JavaScript returns."""
        return self.page.evaluate(script, argument)

    def show(self, **focus):
        """Change what is chosen, as a click would."""
        self.js("change => window.gpt2np.show(change)", focus)

    @property
    def focus(self):
        """What is chosen."""
        return self.js("() => window.gpt2np.focus")

    def text(self, selector):
        """The text of the first visible element."""
        return self.page.locator(selector).first.inner_text()

    def close(self):
        """Close it; nothing may have gone wrong, and nothing but the file may have been asked for."""
        self.context.close()
        assert self.said == []
        assert len(self.asked) == 1, self.asked


@contextmanager
def visit(chromium, path, **options):
    """An open page, checked when it is left."""
    opened = Visit(chromium, path, **options)
    try:
        yield opened
    except BaseException:
        opened.context.close()
        raise
    opened.close()
