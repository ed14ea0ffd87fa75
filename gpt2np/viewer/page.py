"""The page: template, style, modules and data in one HTML file that needs nothing else."""

import base64
import hashlib
import html
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

import numpy as np

from gpt2np.characters import joined
from gpt2np.errors import InputError
from gpt2np.generation.generated import Generated
from gpt2np.model import Model
from gpt2np.outputs import check_not_read, whole_file
from gpt2np.threads import using_those_of
from gpt2np.tracing.trace import Trace
from gpt2np.viewer.detail_levels import COMPACT, budget, levels_within
from gpt2np.viewer.opening_place import opening_place, panels_of
from gpt2np.viewer.other_run import check_other
from gpt2np.viewer.packing import Packer
from gpt2np.viewer.page_data import Data, checked, sizes_of
from gpt2np.viewer.page_extras import fill

# In the order in which they are joined: a module imports only from those before it.
MODULES = (
    "run_data drawing page_state position_window header glossary map_card every_position map_rows "
    "map_columns map_streams map_paper map head_grid every_head shaded_text attention logit_lens "
    "target_choice head_paths contributions neuron_pushes mlp residual matrix_map head_circuits "
    "nearest_rows composition weights two_runs two_streams two_predictions two_patterns side_by_side "
    "penalties rival_beams generation_steps generation figure_saving captions figures terms tour_stops "
    "tour tabs printing main start"
).split()
HEIGHT, COMPACT_HEIGHT = 760, 620  # of the frame in a notebook, in pixels
STYLES = ("base", "panels", "side_by_side", "print")
IMPORT = re.compile(r"^import \{[^}]*\} from \"\./[a-z0-9_]+\.js\";\n", re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:async )?function |const |let |class )", re.MULTILINE)
COMMENT = re.compile(r"^ *(?://.*|/\*\*.*\*/)\n", re.MULTILINE)
DATA = "<data>"  # stands where a page's data will be, which are packed more than once
DECLARED = re.compile(r"^(?:export )?(?:(?:async )?function|const|let|class) (\w+)", re.MULTILINE)


class Page:
    """One HTML page. `html` is its text; in a notebook it shows itself."""

    def __init__(self, text: str, height: int = HEIGHT, inputs: Iterable[Path] = ()) -> None:
        """`inputs` are the files that what it shows was read from, which no page may replace."""
        self.html, self._height, self._inputs = text, height, tuple(inputs)

    def save(self, path: str | Path) -> None:
        """Write the page, whole or not at all.

        Raises:
            InputError: it cannot be written, or is what the run was read from.
        """
        check_not_read(path, self._inputs)
        with whole_file(path) as file:
            file.write(self.html)

    def _repr_html_(self) -> str:
        """The page in a frame of its own, which may run scripts and nothing else."""
        return (
            f'<iframe sandbox="allow-scripts" width="100%" height="{self._height}" style="border:0" '
            f'title="gpt2np view" srcdoc="{html.escape(self.html)}"></iframe>'
        )

    def __repr__(self) -> str:
        return f"<Page: {len(self.html.encode('utf-8')):,} bytes of HTML>"


def view(
    run: Trace | Generated | Model,
    out: str | Path | None = None,
    model: Model | None = None,
    *,
    against: Trace | Generated | str | None = None,
    compact: bool = False,
    show: str | None = None,
    layer: int | None = None,
    head: int | None = None,
    pos: int | None = None,
    big: bool = False,
) -> Page:
    """The page of a trace or of a traced generation; `out` writes it too. An opened trace takes a `model`.

    Of a `Model` it is a live page, which runs the model on any text that is typed into it.

    What was not kept is left out, and so is what needs weights where there is no model. With `compact` it has
    the map and the attention only, in a smaller frame, for a notebook with many pages.

    `against` is a second run of the same model, or a text that it shall run: the page then has a panel more,
    in which the two are held side by side, and opens with it.

    `show` is the panel that the page opens with: map, attention, lens, contributions, mlp, residual,
    weights, against (with a second run), generation (if something was generated) or glossary; `layer`, `head`
    and `pos` are what is chosen there, from the end if negative. `big` is for a projector.

    Raises:
        InputError: this is none of them, a live page cannot run the model, the two runs are of different
            models, there is no such panel, layer, head or position, or `out` cannot be written, or is what
            the run was read from.
        TraceError: some positions were not kept, or the trace is of another model.

    Example:
        >>> gpt2np.view(model.trace("Elizabeth was"), out="elizabeth.html")
        >>> gpt2np.view(model.trace("Elizabeth was"), show="attention", layer=1, head=0, pos=-1)
        >>> gpt2np.view(model.trace("Elizabeth was"), against="Mr. Darcy was")
        >>> gpt2np.view(model, out="alive.html")
    """
    if isinstance(run, Model):
        from gpt2np.viewer.live_page import live_page

        if compact or model is not None or against is not None:
            raise InputError("view: a model's live page takes neither compact, model nor against")
        return live_page(run, out, show=show, layer=layer, head=head, pos=pos)
    trace, shown = with_model(run, model)
    if against is not None and compact:
        raise InputError("view: a compact page has no room for a second run: leave out compact or against")
    other = None if against is None else _second(against, trace)
    panels = panels_of(shown, compact, two=other is not None)
    if other is not None and show is None:
        show = "against"
    opens_at = opening_place(trace, panels, show, layer, head, pos, big)
    inputs = [*checked(run).source_files(), *trace.source_files()]
    if other is not None:
        inputs += other.source_files()
    if out is not None:
        check_not_read(out, inputs)
    text = rendered(trace, shown, compact, opens_at, other)
    page = Page(text, COMPACT_HEIGHT if compact else HEIGHT, inputs)
    if out is not None:
        page.save(out)
    return page


def _second(against: Trace | Generated | str, trace: Trace) -> Trace:
    """The run that a first one is held against: as it is given, or a text that the first one's model runs."""
    other = trace.model_for("view: against a text").trace(against) if isinstance(against, str) else against
    other = checked(other)
    check_other(trace, other)
    return with_model(other, trace.model)[0]


def with_model(run: Trace | Generated, model: Model | None) -> tuple[Trace, Trace | Generated]:
    """The trace of what is shown, with its model, and what is shown: an opened trace takes a `model`."""
    trace = checked(run)
    if model is not None and trace.model is None:
        trace.check_model(model, "view")
        arrays = {name: trace[name] for name in trace.names()}
        trace = Trace(trace.plan, arrays, trace.token_ids, trace.metadata, model)
    return trace, run if isinstance(run, Generated) else trace


@np.errstate(under="ignore")
def rendered(
    trace: Trace,
    run: Trace | Generated,
    compact: bool = False,
    opens_at: str = "",
    other: Trace | None = None,
) -> str:
    """The most detailed page within the budget; `opens_at` is what `opening_place` returns.

    What is left of the budget is filled with what would be left out first.
    """
    trace = checked(trace)
    with using_those_of(trace if trace.model is None else trace.model, own=True):
        return _rendered(trace, run, compact, opens_at, other)


def _rendered(trace: Trace, run: Trace | Generated, compact: bool, opens_at: str, other: Trace | None) -> str:
    sizes = sizes_of(trace, other)
    most = COMPACT if compact else budget(sizes.longest)
    titles = [joined(each.tokens)[:60] for each in (trace, other) if each is not None]
    title = f"{' against '.join(titles)} · gpt2np view"
    before, after = document(title, DATA, opens_at=opens_at).split(DATA)
    room = most - len((before + after).encode("utf-8"))
    for detail in levels_within(sizes, most, compact):
        data = Data(trace, run, detail, other)
        packer = Packer()
        packed = packer.pack(data.facts, data.arrays)
        if len(packed) <= room:
            break
    if not compact:
        fill(data, room - len(packed))
        packed = packer.pack(data.facts, data.arrays)
    return before + packed + after


def document(title: str, packed: str, modules: tuple[str, ...] | None = None, opens_at: str = "") -> str:
    """The file: everything inlined, and a policy that forbids everything else."""
    script = bundle(modules or tuple(MODULES))
    style = "\n".join(static(f"{name}.css") for name in STYLES)
    policy = (
        f"default-src 'none'; script-src '{digest(script)}'; style-src '{digest(style)}'; "
        "img-src data:; connect-src 'none'; base-uri 'none'; form-action 'none'"
    )
    slots = {
        "policy": policy,
        "title": html.escape(" ".join(title.split())),
        "style": style,
        "opens_at": html.escape(opens_at),
        "data": packed,
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda slot: slots[slot[1]], static("page.html"))


def bundle(modules: tuple[str, ...]) -> str:
    """The modules as one: their imports, comments and the word `export` taken out.

    Raises:
        InputError: a module has an import or export of another form, or two declare the same name.
    """
    joined, declared = [], dict[str, str]()
    for name in modules:
        source = static(f"{name}.js")
        for word in DECLARED.findall(source):
            if word in declared:
                raise InputError(f"{name}.js and {declared[word]}.js both declare {word}")
            declared[word] = name
        text = EXPORT.sub("", IMPORT.sub("", COMMENT.sub("", source)))
        if left := re.search(r"^\s*(import|export)\b.*", text, re.MULTILINE):
            raise InputError(f"{name}.js: {left[0].strip()!r} is not a form that the page can inline")
        if "</script" in text.lower() or "<!--" in text:
            raise InputError(f"{name}.js would end its own script element")
        joined.append(f"// {name}.js\n{text}")
    return "\n".join(joined)


def static(name: str) -> str:
    """One of the package's files for the page."""
    return resources.files("gpt2np.viewer").joinpath("static", name).read_text("utf-8")


def digest(text: str) -> str:
    """The hash by which a policy names an inline script or style."""
    hashed = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(hashed).decode('ascii')}"
