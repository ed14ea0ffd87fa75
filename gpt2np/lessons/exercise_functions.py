"""The functions that the exercises of a file are about: found in its source, and run without the rest."""

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2np.errors import InputError, short
from gpt2np.lessons.scripts import modules_beside, place_in, said
from gpt2np.lessons.time_limit import TooLongError, time_limit

if TYPE_CHECKING:
    from symtable import SymbolTable

CHECK, TODO = "check", "todo"  # of `gpt2np.lessons`, as files of lessons call them


@dataclass(frozen=True)
class ExerciseFunction:
    """A function that a file writes for an exercise, in the order of its checks.

    `name` is the exercise's, as `attention.scores`, and `function` the name in the file; `written` says
    whether it is more than the stub; one that the file has not, is not.
    """

    name: str
    function: str
    written: bool


def exercise_functions(tree: ast.Module) -> list[ExerciseFunction]:
    """Return the functions of a file that its `lessons.check(name, function)` are about, each once.

    Where the second argument is not just a name, the function is called as the last part of the exercise.
    """
    definitions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    found: dict[str, ExerciseFunction] = {}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and _last_name(node.func) == CHECK and node.args):
            continue
        name, given = node.args[0], node.args[1] if len(node.args) > 1 else None
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            function = given.id if isinstance(given, ast.Name) else name.value.rpartition(".")[2]
            written = function in definitions and not _is_stub(definitions[function])
            found.setdefault(name.value, ExerciseFunction(name.value, function, written))
    return list(found.values())


def functions_by_name(tree: ast.Module, exercises: Sequence[str]) -> list[ExerciseFunction]:
    """Return the same; of a file without checks, its functions that are called as one of the `exercises`.

    A helper of another topic's function is none: a whole model needs a `layer_norm` of its own.
    """
    if found := exercise_functions(tree):
        return found
    named = {name.rpartition(".")[2]: name for name in exercises}
    definitions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in named]
    needs = [(_topic(named[node.name]), _needed(tree, node.name)) for node in definitions]
    return [
        ExerciseFunction(named[node.name], node.name, not _is_stub(node))
        for node in definitions
        if not any(node in needed and topic != _topic(named[node.name]) for topic, needed in needs)
    ]


def _topic(name: str) -> str:
    """`attention` of `attention.scores`."""
    return name.rpartition(".")[0]


def _is_stub(definition: ast.FunctionDef) -> bool:
    """Whether a function still returns `lessons.todo` somewhere."""
    return any(
        isinstance(node, ast.Return) and node.value is not None and _last_name(node.value) == TODO
        for node in ast.walk(definition)
    )


def _last_name(node: ast.expr) -> str:
    """`check` of `lessons.check` and of `check`."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def function_of(tree: ast.Module, name: str, path: Path) -> Callable[..., Any]:
    """Return a function of a file: only what it needs of the file is run, without checks and pictures.

    Raises:
        InputError: the file has no such function, or a statement that it needs cannot run; says which line.
    """
    namespace: dict[str, Any] = {"__name__": "__main__", "__file__": str(path)}
    try:
        code = compile(ast.Module(_needed(tree, name), []), str(path), "exec", dont_inherit=True)
        with modules_beside(path), time_limit():
            exec(code, namespace)
    except TooLongError as error:
        raise InputError(f"{path}{place_in(path, error)}: {error}") from None
    except (Exception, SystemExit) as error:
        raise InputError(f"{path}{place_in(path, error)}: {said(error)}") from None
    function = namespace.get(name)
    if not callable(function):
        raise InputError(f"{path}: has no function {short(name)}")
    return function  # type: ignore[no-any-return]


def _needed(tree: ast.Module, name: str) -> list[ast.stmt]:
    """The statements of a file that make a name, and the names that those use; in their order."""
    import symtable

    makes = [_made_by(statement) for statement in tree.body]
    wanted, chosen, before = {name, "*"}, set[int](), -1
    while before < len(chosen):
        before = len(chosen)
        for i, statement in enumerate(tree.body):
            if i not in chosen and makes[i] & wanted:
                chosen.add(i)
                wanted |= _used_by(symtable.symtable(ast.unparse(statement), "file", "exec"))
    return [tree.body[i] for i in sorted(chosen)]


def _made_by(statement: ast.stmt) -> set[str]:
    """The names that a statement of a file makes; `*` for an import that is for all of the file."""
    if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
        return {"*"}
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    names = set[str]()
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):  # in an `if` or a `try`
            names.add(node.name)
    return names


def _used_by(table: "SymbolTable") -> set[str]:
    """The names of the file that a statement uses, in functions too, but not what is local to these."""
    is_file = table.get_type() == "module"
    names = {symbol.get_name() for symbol in table.get_symbols() if is_file or symbol.is_global()}
    return names.union(*map(_used_by, table.get_children()))
