"""The lessons as files: run as a script in an empty folder, with stubs or solved; what they say and print.

`python tests/support/lesson_files.py [N ...]` writes the expected outputs `tests/lessons/N.txt` anew.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "gpt2np" / "lessons"
OUTPUTS = Path(__file__).parents[1] / "lessons"
LESSONS = sorted(FOLDER.glob("[0-9]_*.py"))
REAL = "## The real GPT-2"  # the last part of a lesson: what it says was not computed here
RUN = """
import runpy, sys

def refused(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        sys.exit("a lesson asks the network")

if "--hub" not in sys.argv:
    sys.addaudithook(refused)
if "--stand-in" in sys.argv:
    import gpt2np
    from gpt2np import lessons
    from support.random_model import random_model_with_text

    load = gpt2np.load
    gpt2 = random_model_with_text(n_layer=12, n_head=12, n_embd=48)
    gpt2np.load = lambda name, **options: gpt2 if name == "gpt2" else load(name, **options)
    lessons.available = lambda name: True
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def run(path: Path, folder: Path, *how: str) -> subprocess.CompletedProcess:
    """Run a script in a folder, without network and with an empty cache of models.

    `--stand-in` puts a random model of GPT-2's layers and heads in its place, `--hub` runs the real one.
    """
    paths = [str(FOLDER.parents[1]), str(Path(__file__).parents[1])]
    env = os.environ | {"COLUMNS": "80", "PYTHONPATH": os.pathsep.join(paths)}
    env |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}
    if "--hub" not in how:
        env |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    env.pop("GPT2NP_MODEL", None)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN, str(path), *how],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=folder,
        env=env,
    )


def stubs(source: str) -> dict[str, ast.FunctionDef]:
    """The functions to write: those that return lessons.todo."""
    return {
        node.name: node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and ast.unparse(node.body[-1]) == "return lessons.todo"
    }


def solved(path: Path) -> str:
    """A lesson with its solutions in the place of the stubs, and what these import and call."""
    source, solution = path.read_text("utf-8"), (FOLDER / "solutions" / path.name).read_text("utf-8")
    tree = ast.parse(solution)
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    todo = stubs(source)
    rest = [
        ast.unparse(node)
        for node in tree.body[1:]
        if not (isinstance(node, ast.FunctionDef) and node.name in todo)
    ]
    lines = source.split("\n")
    for name, stub in reversed(todo.items()):
        written = ast.unparse(functions[name]) if name in functions else ""
        lines[stub.lineno - 1 : stub.end_lineno] = written.split("\n")
    first = next(i for i, line in enumerate(lines) if line == "# %%") + 1
    return "\n".join([*lines[:first], *rest, *lines[first:]])


def prose(path: Path) -> str:
    """The texts of a lesson, without the part about the real GPT-2."""
    parts = re.split(r"^# %%(.*)$", path.read_text("utf-8"), flags=re.MULTILINE)
    texts = [text for mark, text in zip(parts[1::2], parts[2::2], strict=True) if "markdown" in mark]
    return re.sub(r"^# ?", "", "\n".join(texts), flags=re.MULTILINE).partition(REAL)[0]


def main(numbers: list[str]) -> None:
    """Write what lessons print."""
    import tempfile

    for path in LESSONS:
        number = path.name.partition("_")[0]
        if numbers and number not in numbers:
            continue
        with tempfile.TemporaryDirectory() as folder:
            done = run(path, Path(folder))
        if done.returncode:
            sys.exit(f"{path.name}:\n{done.stdout}\n{done.stderr}")
        (OUTPUTS / f"{number}.txt").write_text(done.stdout, "utf-8")
        print(f"{number}.txt: {len(done.stdout.splitlines())} lines")


if __name__ == "__main__":
    main(sys.argv[1:])
