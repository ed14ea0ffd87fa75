"""Using a live page in a browser: wait till it rests, type into it, hold what it shows against NumPy."""

import numpy as np

TEXT = "Elizabeth was not sorry that Mr. Darcy was"  # what a page begins with


def settle(page, script="true"):
    """Wait till nothing is computed any more, and a piece of JavaScript is true."""
    page.until(f"() => gpt2np.idle && !gpt2np.run.missing.follow && ({script})")


def type_in(page, text):
    """Put a text into the box, and wait till the page shows it."""
    page.page.locator("textarea").fill(text)
    page.until(f"() => gpt2np.run.prompt === {text!r}")
    settle(page)


def swap(page, pos, word):
    """Put another word into the place of a token."""
    page.show(pos=pos)
    box = page.page.get_by_label("token to put there")
    box.fill(word)
    box.press("Enter")
    page.until(f"() => gpt2np.run.tokens[{pos}].trim() === {word!r}")
    settle(page)


def switch(page, name):
    """Switch a head or an MLP off or on."""
    if not page.page.locator(".switches").is_visible():
        page.page.locator(".studio summary").click()
    edits = page.js("() => String(gpt2np.run.model.edits)")
    page.page.get_by_role("button", name=name, exact=True).click()
    page.until(f"() => String(gpt2np.run.model.edits) !== {edits!r}")
    settle(page)


def logits_match(page, model, ids, edits=None):
    """What the page shows follows the tokens: the likeliest next ones are NumPy's."""
    trace = model.trace(ids, edits=edits)
    assert page.js("() => gpt2np.run.ids") == ids
    chances = page.js("() => Array.from(gpt2np.run.at('next:p', gpt2np.run.T - 1))")
    np.testing.assert_allclose(chances, [p for _, _, p in trace.top(10)], atol=1e-5)
