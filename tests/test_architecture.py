"""A file imports only from files above it: the order of this list is the order of reading."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "gpt2np"

ORDER = """
errors files config threads ops sites plan derived recording edits tensorfile trace identities
step torchfile hub checkpoint vocabulary tokenizer gpt2 prompts filters sampling beam past
generated generate score model tables analysis export reference capturing viewer report
arguments verbs cli __main__
""".split()

# The package's own face may name what it offers; everything else goes one way.
FACE = "__init__"


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Modules of gpt2np that a file imports at module level."""
    found = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "gpt2np":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("gpt2np.")}
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_upwards(path):
    module = module_of(path)
    if module == FACE:
        return
    assert module in ORDER, f"{module} has no place in the order yet"
    for imported in imports(path):
        assert ORDER.index(imported) <= ORDER.index(module), f"{module} imports {imported} from below"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_are_short_enough_to_read(path):
    assert len(path.read_text("utf-8").splitlines()) <= 400


def test_no_module_has_the_name_of_a_public_function():
    import gpt2np

    functions = {name for name in gpt2np.__all__ if callable(getattr(gpt2np, name))}
    assert not functions & {module_of(path) for path in FILES}
    assert len(gpt2np.__all__) < 12


PROBE = """
import sys, time
import numpy
opened = []
sys.addaudithook(lambda event, args: opened.append(event) if event.startswith("socket.") else None)
start = time.perf_counter()
import gpt2np
seconds = time.perf_counter() - start
model = gpt2np.load("tiny")
model.trace("Elizabeth was").top()
heavy = {"torch", "transformers", "huggingface_hub", "scipy", "matplotlib", "numba"} & set(sys.modules)
print(opened, sorted(heavy), seconds)
"""


def test_import_and_run_are_light_and_open_no_socket(tmp_path):
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.startswith("[] [] "), done.stdout + done.stderr
