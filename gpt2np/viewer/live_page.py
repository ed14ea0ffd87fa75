"""The live page: a model inside one HTML file, which runs it on any text in the browser, offline."""

import html
import re
from pathlib import Path

from gpt2np.errors import InputError
from gpt2np.model import Model
from gpt2np.outputs import check_not_read
from gpt2np.tables import strict_json
from gpt2np.text.prompts import Prompt
from gpt2np.viewer.live_model import MOST, checked_live, is_rounded, live_facts, packed_weights, too_large
from gpt2np.viewer.opening_place import LIVE_LACKS, LIVE_PANELS, opening_place
from gpt2np.viewer.page import MODULES, STYLES, Page, bundle, digest, static

# In the order in which they are joined: those of a run's page but for its start, then what is alive.
ENGINE = (
    "products elementwise attending weights forward switched_off tokenizer readable pcg64 sampling "
    "generating recorded_arrays read_out run_facts serving"
).split()
LIVE = (
    "live_engine live_difference live_marks live_changes live_switches live_saving live_controls live"
).split()
TEXT = "Elizabeth was not sorry that Mr. Darcy was"
HEIGHT = 900  # of the frame in a notebook


def live_page(
    model: Model,
    out: str | Path | None = None,
    *,
    prompt: Prompt | None = None,
    show: str | None = None,
    layer: int | None = None,
    head: int | None = None,
    pos: int | None = None,
) -> Page:
    """Return the page that runs a model and begins with `prompt`; the rest is as in `view`.

    Raises:
        InputError: a page cannot run this model, or would be too large; the prompt does not fit; there is no
            such panel, layer, head or position; `out` cannot be written, or is what the model was read from.
    """
    checked_live(model)
    files = model.checkpoint.files
    if out is not None:
        check_not_read(out, files)
    trace = model.trace(TEXT if prompt is None else prompt)
    opens_at = opening_place(trace, LIVE_PANELS, show, layer, head, pos, lacks=LIVE_LACKS)
    facts = live_facts(model, trace)
    facts["page"]["model"]["rounded"] = is_rounded(model)
    written = _document(strict_json(facts, indent=None), packed_weights(model), opens_at, model.name)
    if (n_bytes := len(written.encode("utf-8"))) > MOST:
        raise InputError(too_large(model, n_bytes))
    page = Page(written, HEIGHT, files)
    if out is not None:
        page.save(out)
    return page


def _document(facts: str, weights: str, opens_at: str, name: str) -> str:
    """The file: everything inlined, and a policy that forbids everything else.

    `worker-src blob:` lets the page make a worker of text that it has. Only a script can do that, and every
    script is one of the two whose hashes stand in `script-src`; the worker's text is the first of them. A
    worker made so inherits the policy, and can reach the network no more than the page can.
    """
    engine = engine_script()
    script = bundle((*(m for m in MODULES if m != "start"), *LIVE))
    style = "\n".join(static(f"{sheet}.css") for sheet in (*STYLES, "live"))
    policy = (
        f"default-src 'none'; script-src '{digest(engine)}' '{digest(script)}'; worker-src blob:; "
        f"style-src '{digest(style)}'; img-src data:; connect-src 'none'; base-uri 'none'; form-action 'none'"
    )
    slots = {
        "policy": policy,
        "title": html.escape(f"{' '.join(name.split())[:60]}, alive · gpt2np view"),
        "style": style,
        "opens_at": html.escape(opens_at),
        "facts": facts.replace("<", "\\u003c"),
        "weights": weights,
        "engine": engine,
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda slot: slots[slot[1]], static("live_page.html"))


def engine_script() -> str:
    """The engine's modules as one script, for a worker or, where none can be made, for the page."""
    return f"(() => {{\n{bundle(tuple(f'engine/{name}' for name in ENGINE))}\n}})();"
