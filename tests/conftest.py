"""Options of the suite, and what several test files share."""

import importlib.util
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # the suite runs in several processes already
sys.path.insert(0, str(Path(__file__).parent))
found = importlib.util.find_spec("gpt2np")  # processes that tests start shall find the same one
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(found.origin).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
)

from support import needs


def pytest_addoption(parser):
    parser.addoption("--hub", action="store_true", help="also tests on the real GPT-2, from the Hub")
    parser.addoption("--slow", action="store_true", help="also tests that take minutes or gigabytes")
    parser.addoption("--mutations", type=int, metavar="N", help="tries of tests/mutation (default 2000)")
    parser.addoption("--mutation-seed", type=int, default=2026, metavar="S", help="of these tries")
    needs.add_options(parser)


def pytest_configure(config):
    if not hasattr(config, "workerinput"):  # not in the processes that xdist starts
        config.pluginmanager.register(needs.Missing(config))


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        keep_some(config, items)
    needs.select(config, items)  # after it, as in the run that made the list
    for item in items:
        if reason := why_not(item):
            item.add_marker(pytest.mark.skip(reason=reason))


def keep_some(config, items):
    """Of the cases of a test that is marked `every(n)`, keep every n-th."""
    seen, left_out = Counter(), []
    for item in items:
        if mark := item.get_closest_marker("every"):
            test = item.nodeid.partition("[")[0]
            if seen[test] % mark.args[0]:
                left_out.append(item)
            seen[test] += 1
    if left_out:
        out = set(left_out)
        items[:] = [item for item in items if item not in out]
        config.hook.pytest_deselected(items=left_out)


def why_not(item):
    """The reason to skip a test, if there is one."""
    for mark in ("hub", "slow"):
        if mark in item.keywords and not item.config.getoption(f"--{mark}"):
            return f"needs --{mark}"
    return needs.missing(needed_by(item))


def needed_by(item):
    return [name for mark in item.iter_markers("needs") for name in mark.args]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    needs.check(needed_by(item))  # not at collection, where xdist hides what an error says


@pytest.fixture(scope="session")
def tiny():
    import gpt2np

    return gpt2np.load("tiny")


@pytest.fixture(scope="session")
def tiny64():
    import gpt2np

    return gpt2np.load("tiny", dtype="float64")


@pytest.fixture(scope="module")
def chromium(pytestconfig):
    """A browser, without pages of the files before."""
    from support.shared_browser import shared_browser

    running = shared_browser(pytestconfig).start()
    yield running
    for context in running.contexts:
        context.close()


@pytest.fixture(scope="session")
def live_path(tiny, tmp_path_factory):
    """The live page of `tiny`."""
    import gpt2np

    path = tmp_path_factory.mktemp("live") / "live.html"
    gpt2np.view(tiny, out=path)
    return path


@pytest.fixture(scope="session")
def long_run(tiny, tmp_path_factory):
    """A trace of 250 tokens, and its page."""
    import gpt2np

    sentence = " It is a truth universally acknowledged, that a single man must be in want of a wife."
    trace = tiny.trace((tiny.tokenizer.encode(sentence) * 12)[:250])
    path = tmp_path_factory.mktemp("long") / "page.html"
    gpt2np.view(trace, out=path)
    return trace, path
