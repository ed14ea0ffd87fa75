"""The parts of gpt2np/docs that are made from the code: the table of sites, of sizes, and the API reference.

python tests/support/generated_pages.py      (writes them)
"""

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
if __name__ == "__main__":  # without a checkout installed
    sys.path.insert(0, str(TESTS.parent))


from gpt2np.architectures import gemma2, gpt_neo
from gpt2np.architectures.gpt2.sites import SITES
from gpt2np.cli.report import markdown_table
from gpt2np.tracing.contract import released, released_names
from gpt2np.tracing.plan import Plan, human_bytes
from gpt2np.tracing.sites import Site, SiteTable

PACKAGE = TESTS.parent / "gpt2np"
DOCS = PACKAGE / "docs"

# The modules of the API reference, in the order in which a user meets them.
MODULES = """loading model tracing.trace tracing.plan tracing.sites tracing.keep tracing.edits tracing.verify
    text.tokenizer generation.options generation.generated generation.saved_generation generation.sampling
    generation.scoring
    analysis.named_array analysis.lens analysis.attribution analysis.paths analysis.circuits
    analysis.low_rank analysis.directions
    analysis.heads analysis.neurons analysis.layer_norms analysis.matrices analysis.residual_stream
    analysis.parameter_counts analysis.statistics analysis.baseline_notebook analysis.site_values
    analysis.losses analysis.two_prompts analysis.interventions analysis.patching analysis.plot
    viewer viewer.comparison_page reference.comparison reference.step_check reference.fixture
    lessons.checker lessons.verdict lessons.showing lessons.pictures lessons.models
    export.dialects.dialect export.dialects.batch export.dialects.reading export.dialects.writing
    export.typescript export.llmc capture.prompt_set capture.runs capture.formats capture.capture_files
    capture.after_attention capture.manifest capture.captured capture.row_arrays capture.verification
    kv.extraction kv.reading kv.queries kv.resume kv.dataset_prompts kv.datasets
    checkpoints.config_file checkpoints.checkpoint architectures.gpt2.config architectures.gpt2.forward
    architectures.gpt_neo.config architectures.gpt_neo.forward
    architectures.gemma2.config architectures.gemma2.forward
    ops.products ops.norms ops.activations ops.rotation ops.caps ops.attention ops.embedding errors""".split()


def site_table() -> str:
    """Every site of GPT-2, with its names elsewhere."""
    return markdown_table(SITES)


def gpt_neo_table() -> str:
    """The sites of GPT-Neo that are not GPT-2's, or have other names."""
    others = [
        site for site in gpt_neo.SITES if site.name not in SITES or _means(site) != _means(SITES[site.name])
    ]
    return markdown_table(SiteTable(others))


def gemma2_table() -> str:
    """Every site of Gemma-2."""
    return markdown_table(gemma2.SITES)


def _means(site: Site) -> tuple[object, ...]:
    return site.axes, site.doc, site.derived, *(site.dialect_name(d) for d in ("hf", "transformer_lens"))


def size_table() -> str:
    """The released sizes: parameters, and bytes of weights and traces."""
    lines = [
        "| model | layers | parameters | weights in bfloat16 | in float32 | in float64 "
        "| full trace of 100 tokens | of 1,024 |"
    ]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in released_names():
        config = released(name)
        assert config is not None
        n = config.n_parameters
        traces = " | ".join(human_bytes(Plan(config, length).nbytes) for length in (100, 1024))
        weights = " | ".join(human_bytes(size * n) for size in (2, 4, 8))
        lines.append(f"| `{name}` | {config.n_layer} | {n:,} | {weights} | {traces} |")
    return "\n".join(lines) + "\n"


# -- the API reference --------------------------------------------------------------------------------------


def api_reference() -> str:
    """Every public class and function of `MODULES`, from the source: nothing is imported for it."""
    parts = []
    for name in MODULES:
        path = PACKAGE / (name.replace(".", "/") + ".py")
        tree = ast.parse((path if path.exists() else path.with_suffix("") / "__init__.py").read_text("utf-8"))
        parts += [f"## gpt2np.{name}", _text(tree)]
        for node in tree.body:
            parts += _documented(node)
    return "\n\n".join(part for part in parts if part) + "\n"


def _documented(node: ast.stmt, owner: str = "") -> Iterator[str]:
    """A public function, or a class with its public methods: heading, signature, docstring."""
    if not isinstance(node, ast.FunctionDef | ast.ClassDef) or not _is_public(node):
        return
    name = f"{owner}.{node.name}" if owner else node.name
    text = _text(node)
    if isinstance(node, ast.ClassDef):
        bases = f"({', '.join(map(ast.unparse, node.bases))})" if node.bases else ""
        fields = [child for child in node.body if isinstance(child, ast.AnnAssign)]
        lines = [f"    {ast.unparse(field)}" for field in fields if not ast.unparse(field).startswith("_")]
        yield f"### {name}\n\n" + "\n".join(["```py", f"class {name}{bases}", *lines, "```"])
        yield text
        for child in node.body:
            yield from _documented(child, name)
    elif text:  # an overload has none
        yield f"{'####' if owner else '###'} {name}\n\n```py\n{_signature(node, name)}\n```"
        yield text


def _is_public(node: ast.FunctionDef | ast.ClassDef) -> bool:
    return not node.name.startswith("_") or (node.name == "__call__" and ast.get_docstring(node) is not None)


def _signature(node: ast.FunctionDef, name: str) -> str:
    """As it would be written, on one line if that is short; a property is a name with a type."""
    result = f" -> {ast.unparse(node.returns)}".replace("'", "") if node.returns else ""
    if any(ast.unparse(mark).endswith("property") for mark in node.decorator_list):
        return name + result.replace(" ->", ":")
    arguments = ast.unparse(node.args)
    arguments = re.sub(r"^(self|cls)(, (/, )?|$)", "", arguments)
    pieces = [re.sub(r"^(\w+: [^=]+)=", r"\1 = ", piece) for piece in _split(arguments)]
    arguments, name = ", ".join(pieces), name.removesuffix(".__call__")
    if len(line := f"{name}({arguments}){result}") <= 100:
        return line
    return "\n".join([f"{name}(", *(f"    {piece}," for piece in pieces), f"){result}"])


def _split(arguments: str) -> list[str]:
    """Arguments at the commas that stand in no bracket and in no text."""
    pieces, depth, quote = [""], 0, ""
    for c in arguments:
        if quote:
            quote = "" if c == quote else quote
        elif c in "'\"":
            quote = c
        depth += 0 if quote else (c in "([{") - (c in ")]}")
        if c == "," and not depth and not quote:
            pieces.append("")
        else:
            pieces[-1] += c
    return [piece.strip() for piece in pieces]


def _text(node: ast.Module | ast.FunctionDef | ast.ClassDef) -> str:
    """A docstring as Markdown: lists of errors and fields as lists, examples as code."""
    doc = ast.get_docstring(node) or ""
    parts = []
    for paragraph in doc.split("\n\n"):
        head, _, rest = paragraph.partition("\n")
        if re.fullmatch(r"[A-Z]\w*:", head) and rest.startswith("    "):
            body = inspect.cleandoc(rest)
            parts.append(head[:-1] + ":")
            parts.append(f"```pycon\n{body}\n```" if ">>>" in body else _items(body))
        elif ">>>" in paragraph or paragraph.startswith("    "):
            parts.append(f"```text\n{inspect.cleandoc(paragraph)}\n```")
        else:
            parts.append(paragraph)
    return "\n\n".join(parts)


def _items(body: str) -> str:
    """Lines `name: what`, continued by indented ones, as a list."""
    return re.sub(r"^(\w[\w*, ]*?):", r"- `\1`:", body, flags=re.MULTILINE)


# -- the pages ----------------------------------------------------------------------------------------------

REGIONS: dict[tuple[str, str], Callable[[], str]] = {
    ("sites", "sites"): site_table,
    ("sites", "gpt_neo"): gpt_neo_table,
    ("sites", "gemma2"): gemma2_table,
    ("models", "sizes"): size_table,
    ("api", "reference"): api_reference,
}


def rendered(name: str) -> str:
    """A page with its generated parts as they must be now.

    Raises:
        ValueError: it has no place for one of them.
    """
    page = (DOCS / f"{name}.md").read_text("utf-8")
    for (of, mark), make in REGIONS.items():
        if of == name:
            before, start, rest = page.partition(f"<!-- {mark} -->\n")
            _, end, after = rest.partition(f"<!-- /{mark} -->")
            if not start or not end:
                raise ValueError(f"{name}.md has no place for {mark}")
            page = before + start + make() + end + after
    return page


def main() -> None:
    """Write them all."""
    for name in sorted({name for name, _ in REGIONS}):
        (DOCS / f"{name}.md").write_text(rendered(name), "utf-8")


if __name__ == "__main__":
    main()
