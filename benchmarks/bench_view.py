"""The page of a run in Chromium: time to the first picture, and to follow a choice, at GPT-2 small's shape.

    python -m benchmarks.bench_view [--rounds 5] [--tokens 5 30 300 1024]

Three times, each the median of the rounds:
    command        `gpt2np view --no-open` as a process, from its start to its end: import, load the model,
                   run it, write the page
    first_picture  from the moment the browser begins to open the file to the frame that shows the map; the
                   browser runs already, the page unpacks its data in this time
    follow         from a choice (another token, another layer) to the frame that shows it; of all panels the
                   slowest is named

Needs playwright (the extra `browser`) and a Chromium: $GPT2NP_CHROMIUM, or `chromium` on the path.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.random_gpt2 import make

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
PANELS = ["map", "attention", "lens", "contributions", "mlp", "residual", "glossary"]
MARK = "() => performance.getEntriesByName('first-picture')[0]?.startTime ?? null"
FOLLOW = """async ([panel, change]) => {
    const settled = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    gpt2np.show({panel});
    await settled();
    const start = performance.now();
    gpt2np.show(change);
    await settled();
    return (performance.now() - start) / 1000;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, nargs="+", default=[5, 30, 300, 1024])
    args = parser.parse_args()
    chromium = os.environ.get("GPT2NP_CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        sys.exit("no chromium: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sys.exit("no playwright: pip install 'gpt2np[browser]'")
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = make(Path(temporary) / "gpt2")
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        found = {}
        for n in args.tokens:
            path = Path(temporary) / f"{n}.html"
            rounds = args.rounds if n <= 30 else 1  # the command alone takes a while
            seconds = [command(folder, path, n) for _ in range(rounds)]
            opened = [first_picture(browser, path, n) for _ in range(args.rounds)]
            found[str(n)] = {
                "bytes": path.stat().st_size,
                "command": statistics.median(seconds),
                "first_picture": statistics.median(opened),
                "first_picture_slowest": max(opened),
                "follow": follow(browser, path, n, args.rounds),
            }
        browser.close()
    print(json.dumps(found, indent=1))


def command(folder: Path, path: Path, n: int) -> float:
    """Seconds of the whole command."""
    ids = ",".join(map(str, np.random.default_rng(0).integers(0, 50257, n).tolist()))
    argv = [sys.executable, "-m", "gpt2np", "view", "--tokens", ids, "--model", str(folder), "--no-open"]
    start = time.perf_counter()
    subprocess.run([*argv, "--out", str(path)], check=True, capture_output=True)
    return time.perf_counter() - start


def first_picture(browser, path: Path, n: int) -> float:
    """Seconds from the navigation to the frame with the picture, by the browser's own clock."""
    with browser.new_context(viewport={"width": 1280, "height": 800}) as context:
        page = context.new_page()
        page.goto(path.as_uri())
        while (marked := page.evaluate(MARK)) is None:
            time.sleep(0.01)
        assert page.evaluate("() => gpt2np.run.T") == n
        return marked / 1000


def follow(browser, path: Path, n: int, rounds: int) -> dict[str, object]:
    """Median seconds to follow a change of token and of layer in every panel, and where it takes longest."""
    with browser.new_context(viewport={"width": 1280, "height": 800}) as context:
        page = context.new_page()
        page.goto(path.as_uri())
        while page.evaluate(MARK) is None:
            time.sleep(0.01)
        taken: dict[str, list[float]] = {panel: [] for panel in PANELS}
        for i in range(rounds):
            for panel in PANELS:
                for change in ({"pos": n - 2 - i % 2}, {"layer": i % 12}):
                    taken[panel].append(page.evaluate(FOLLOW, [panel, change]))
    medians = {panel: statistics.median(seconds) for panel, seconds in taken.items()}
    slowest = max(taken, key=lambda panel: max(taken[panel]))
    return {
        "median": statistics.median(medians.values()),
        "slowest": max(taken[slowest]),
        "slowest_panel": slowest,
    }


if __name__ == "__main__":
    main()
