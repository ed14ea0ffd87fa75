"""What some tests need beyond the package and its extra `test`: whether it is there, and how to get it.

A test says so with a mark, which `conftest.py` turns into a skip with the reason:

    @pytest.mark.needs("matplotlib", "node")

A file that imports such a thing at its top calls `module("torch")` before that; a fixture takes
`imported("torch")`, which skips the tests that use it.

`pytest --missing-to=FILE` writes which tests skipped so. Once the rest is installed, `pytest
--missing-from=FILE` runs them, and fails if one still skips: so `.ci/run` finds what would skip for good.
(With a space for the = pytest takes a FILE that is there for a test, and does not find these options.)
"""

import importlib
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterable
from importlib.metadata import version
from itertools import compress
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest


class Need(NamedTuple):
    """How to find a thing, and how to get it. `peer`: it is no part of the environment of the other tests."""

    is_there: Callable[[], bool]
    get_it: str
    peer: bool = False


def chromium() -> str | None:
    """Where the browser is."""
    return os.environ.get("GPT2NP_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


def tsc() -> str | None:
    """Where the compiler of TypeScript is."""
    return os.environ.get("GPT2NP_TSC") or shutil.which("tsc")


def pyright() -> str | None:
    """Where the type checker pyright is."""
    return os.environ.get("GPT2NP_PYRIGHT") or shutil.which("pyright")


def _package(name: str) -> Callable[[], bool]:
    return lambda: importlib.util.find_spec(name) is not None


def _program(name: str) -> Callable[[], bool]:
    return lambda: shutil.which(name) is not None


def _transformer_lens(*versions: int) -> Callable[[], bool]:
    """Some of its major versions: up to 3 it has HookedTransformer, from 4 on TransformerBridge."""
    return lambda: (
        _package("transformer_lens")() and int(version("transformer_lens").split(".")[0]) in versions
    )


def _shtab() -> bool:
    """The version that the completions are made with: others write them differently."""
    return _package("shtab")() and version("shtab") == "1.13.0"


NEEDS = {
    "matplotlib": Need(_package("matplotlib"), "pip install '.[plot]'"),
    "distributed": Need(_package("distributed"), "pip install '.[cluster]'"),
    "shtab": Need(_shtab, "pip install '.[test]'"),
    "bash": Need(_program("bash"), "a package of the system"),
    "zsh": Need(_program("zsh"), "a package of the system"),
    "fish": Need(_program("fish"), "a package of the system"),
    "torch": Need(_package("torch"), "pip install '.[ref]'"),
    "transformers": Need(_package("transformers"), "pip install '.[ref]'"),
    "sentencepiece": Need(_package("sentencepiece"), "pip install '.[sentencepiece]'"),
    "playwright": Need(_package("playwright"), "pip install '.[browser]'"),
    "transformer_lens": Need(_package("transformer_lens"), "pip install transformer_lens", peer=True),
    "HookedTransformer": Need(_transformer_lens(1, 2, 3), "pip install 'transformer_lens<4'", peer=True),
    "TransformerBridge": Need(_transformer_lens(4), "pip install '.[peers]'", peer=True),
    "nnsight": Need(_package("nnsight"), "pip install '.[peers]'", peer=True),
    "chromium": Need(lambda: bool(chromium()), "apt-get install chromium, or its place in GPT2NP_CHROMIUM"),
    "tsc": Need(lambda: bool(tsc()), "npm install typescript, and its place on PATH or in GPT2NP_TSC"),
    "pyright": Need(
        lambda: bool(pyright()), "npm install pyright, and its place on PATH or in GPT2NP_PYRIGHT"
    ),
    "IPython": Need(_package("IPython"), "pip install '.[notebook]'"),
    "markdown_it": Need(_package("markdown_it"), "pip install '.[learn]'"),
    "nbformat": Need(_package("nbformat"), "pip install '.[notebook]'"),
    "nbclient": Need(_package("nbclient"), "pip install '.[notebook]'"),
    "ipykernel": Need(_package("ipykernel"), "pip install '.[notebook]'"),
    "jupytext": Need(_package("jupytext"), "pip install '.[notebook]'"),
    "node": Need(_program("node"), "apt-get install nodejs"),
    "pdftotext": Need(_program("pdftotext"), "apt-get install poppler-utils"),
    "cc": Need(_program("cc"), "apt-get install gcc"),
    "c++": Need(_program("c++"), "apt-get install g++"),
}


def missing(names: Iterable[str]) -> str | None:
    """The reason to skip what needs `names`; None if all are there."""
    lacking = [name for name in names if name in NEEDS and not NEEDS[name].is_there()]
    return "; ".join(_reason(name) for name in lacking) or None


def check(names: Iterable[str]) -> None:
    """Complain about a name that is not in the table."""
    if unknown := set(names) - set(NEEDS):
        raise pytest.UsageError(
            f"unknown need: {', '.join(unknown)}; support/needs.py has {', '.join(NEEDS)}"
        )


def named_in(reason: str) -> list[str]:
    """The needs that a reason of `missing` names; none in any other reason."""
    return [name for name in NEEDS if _reason(name) in reason]


def module(*names: str) -> None:
    """Skip the whole file that calls this, unless all are there."""
    __tracebackhide__ = True  # the skip is that file's
    check(names)
    if reason := missing(names):
        pytest.skip(reason, allow_module_level=True)


def imported(name: str) -> ModuleType:
    """A package; where it is missing, the test skips."""
    __tracebackhide__ = True
    check([name])
    if reason := missing([name]):
        pytest.skip(reason)
    return importlib.import_module(name)


def _reason(name: str) -> str:
    return f"needs {name}: {NEEDS[name].get_it}"


# -- the options --------------------------------------------------------------------------------------------


def add_options(parser: pytest.Parser) -> None:
    """The options of `pytest` that are about needs."""
    add = parser.addoption
    add("--missing-to", metavar="FILE", help="write which tests skipped for want of something")
    add("--missing-from", metavar="FILE", help="only tests of such a FILE; fail if one of them still skips")
    add("--may-miss", metavar="NAME", action="append", default=[], help="with --missing-from: may be missing")


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests of --missing-from: a line of it names a test, or a file with all its tests."""
    if (listed := _listed(config)) is not None:
        chosen = [bool({item.nodeid, _file(item.nodeid)} & listed) for item in items]
        config.hook.pytest_deselected(
            items=[item for item, yes in zip(items, chosen, strict=True) if not yes]
        )
        items[:] = compress(items, chosen)


class Missing:
    """What skipped in a session because something is missing: written to a file, or held against one."""

    def __init__(self, config: pytest.Config) -> None:
        self.to, self.listed = config.getoption("--missing-to"), _listed(config)
        self.may_miss = set(config.getoption("--may-miss"))
        check(self.may_miss)
        self.reasons: dict[str, str] = {}  # of each test, or whole file, that skipped so
        self.reported: set[str] = set()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self.pytest_runtest_logreport(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        self.reported |= {report.nodeid, _file(report.nodeid)}
        reason = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
        if named_in(reason):
            self.reasons[report.nodeid] = reason.removeprefix("Skipped: ")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.to is not None:
            Path(self.to).write_text(json.dumps(sorted(self.without_peers()), indent=0) + "\n", "utf-8")
        if self.listed is not None and session.exitstatus in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = 1 if self.wrong() else 0

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.to is not None:
            n = len(self.without_peers())
            terminalreporter.section("missing")
            terminalreporter.line(f"{n} tests or files skipped for want of something; listed in {self.to}")
        if wrong := self.wrong():
            terminalreporter.section("these must not skip any more")
            for test, reason in sorted(wrong.items()):
                terminalreporter.line(f"{test}: {reason}")

    def without_peers(self) -> dict[str, str]:
        """The tests that skipped, but for those that need a peer, which have an environment of their own."""
        peers = {name for name, need in NEEDS.items() if need.peer}
        return {test: reason for test, reason in self.reasons.items() if not peers & set(named_in(reason))}

    def wrong(self) -> dict[str, str]:
        """What --missing-from lists and still skips, or was not there to be run."""
        listed = self.listed or set()
        wrong = dict.fromkeys(listed - self.reported, "was not run")
        for test, reason in self.without_peers().items():
            if {test, _file(test)} & listed and not set(named_in(reason)) <= self.may_miss:
                wrong[test] = reason
        return wrong


def _listed(config: pytest.Config) -> set[str] | None:
    file = config.getoption("--missing-from")
    return None if file is None else set(json.loads(Path(file).read_text("utf-8")))


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]
