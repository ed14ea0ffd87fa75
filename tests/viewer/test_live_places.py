"""Where a live page runs: without a worker, in a notebook, from a server, on a phone; what it saves."""

import functools
import http.server
import json
import shlex
import threading
from contextlib import contextmanager

import pytest
from support.live_use import TEXT, logits_match, settle, type_in
from support.viewer_browser import visit

import gpt2np
from gpt2np.cli import main

pytestmark = pytest.mark.needs("playwright", "chromium")
TICKS = """() => {
    window.gaps = [];
    let last = performance.now();
    setInterval(() => { const now = performance.now(); gaps.push(now - last); last = now; }, 5);
}"""


@contextmanager
def opened(chromium, address, script=None, **options):
    """A page at an address, whatever it is; nothing may be said on its console."""
    context, said = chromium.new_context(**options), []
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    if script:
        page.add_init_script(script)
    page.goto(address)
    yield page
    context.close()
    assert said == []


def types(page, tiny, text):
    """Type a text key by key; the page, or a frame of it, follows."""
    box = page.locator("textarea")
    box.fill("")
    box.press_sequentially(text, delay=15)
    n = len(tiny.tokenizer.encode(text))
    page.locator(".status", has_text=f"{n} tokens of").wait_for()
    assert box.input_value() == text
    assert page.locator(".word[data-pos]").count() == n


def test_without_a_worker_it_runs_on_the_page_in_slices_and_typing_goes_on(chromium, live_path, tiny):
    with opened(chromium, live_path.as_uri(), "delete window.Worker") as page:
        page.locator(".ribbon").wait_for()
        page.wait_for_function("() => window.gpt2np?.place === 'page'")
        page.locator("textarea").fill(f"{TEXT}. " * 15)
        page.locator(".status", has_text="tokens of at most").wait_for()
        page.evaluate(TICKS)
        page.locator("textarea").press_sequentially(" She was happy", delay=15)
        text = f"{TEXT}. " * 15 + " She was happy"
        assert page.locator("textarea").input_value() == text
        n = len(tiny.tokenizer.encode(text))
        page.locator(".status", has_text=f"{n} tokens of").wait_for()
        assert "in the page" in page.locator(".status").inner_text()
        assert len(page.evaluate("() => gaps")) > 5  # others had their turns
        types(page, tiny, "It is a truth")


def test_it_runs_in_the_frame_of_a_notebook(chromium, tiny, tmp_path):
    file = tmp_path / "notebook.html"
    file.write_text(f"<!doctype html><body>{gpt2np.view(tiny)._repr_html_()}</body>", "utf-8")
    with opened(chromium, file.as_uri()) as page:
        frame = page.frame_locator("iframe")
        frame.locator(".ribbon").wait_for()
        assert "forward pass" in frame.locator(".status").inner_text()
        types(frame, tiny, "It is a truth")


def test_it_runs_from_a_server(chromium, live_path, tiny):
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    handler = functools.partial(quiet, directory=str(live_path.parent))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/{live_path.name}#panel=lens&pos=3"
        with opened(chromium, address) as page:
            page.locator("#panel-lens td").first.wait_for()
            page.wait_for_function("() => window.gpt2np?.place === 'worker'")
            assert page.evaluate("() => gpt2np.focus.pos") == 3
            types(page, tiny, "It is a truth")
    finally:
        server.shutdown()
        server.server_close()


def test_it_runs_on_a_slow_phone(chromium, live_path, tiny):
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with opened(chromium, live_path.as_uri(), **phone, device_scale_factor=3) as page:
        page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": 4})
        page.locator(".ribbon").wait_for()
        types(page, tiny, "It is a truth")
        for tab in page.locator("[role=tab]").all():
            tab.tap()
            assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
        page.locator(".studio summary").tap()
        page.get_by_role("button", name="layer 0 head 0", exact=True).tap()
        page.locator(".status", has_text="1 part off").wait_for()
        sizes = page.locator(".studio :is(button, input, select):visible").evaluate_all(
            "all => all.map(each => [each.getBoundingClientRect().height, each.outerHTML])"
        )
        assert [each for each in sizes if each[0] < 40] == []


def test_parts_of_characters_are_shown_as_on_a_page_of_the_run(chromium, live_path, tiny, tmp_path):
    shown = "() => [gpt2np.run.labels, gpt2np.run.shown ?? null, gpt2np.run.written ?? null]"
    still = tmp_path / "still.html"
    with visit(chromium, live_path) as live:
        settle(live)
        for text in ("日本語 🙂 naïve", "e\u0301 مرحبا 한국어", "a\ufeffb \u202eabc"):
            gpt2np.view(tiny.trace(text), out=still)
            with visit(chromium, still) as page:
                expected = page.js(shown)
            type_in(live, text)
            assert live.js(shown) == expected
            logits_match(live, tiny, tiny.tokenizer.encode(text))


def test_a_generation_is_saved_as_the_command_prints_it(chromium, live_path, tmp_path, capsys):
    with visit(chromium, live_path) as page:
        settle(page)
        page.page.get_by_label("tokens", exact=True).fill("5")
        page.page.get_by_role("button", name="Generate").click()
        settle(page, "document.querySelector('.command').textContent")
        with page.page.expect_download() as download:
            page.page.get_by_role("button", name="Save every choice as JSON").click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        page.asked[:] = [each for each in page.asked if not each.startswith("blob:")]
        saved, command = json.loads(path.read_text("utf-8")), page.text(".command")
    capsys.readouterr()
    assert main([*shlex.split(command)[1:], "--show-choices", "--json"]) == 0
    same(saved, json.loads(capsys.readouterr().out))


def same(found, expected):
    """The same shape and texts, and numbers but for noise."""
    if isinstance(expected, dict):
        assert sorted(found) == sorted(expected)
        for name, value in expected.items():
            same(found[name], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    else:
        assert found == expected
