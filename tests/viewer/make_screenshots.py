"""Pictures of the page in a fixed set of states, to be looked at by eyes.

    python tests/viewer/make_screenshots.py FOLDER [--run 250] [--only 390-light-map] [--gpt2]
    python tests/viewer/make_screenshots.py --readme

Every panel on a phone (390 pixels), a small screen (1024), a notebook (1280) and a projector (1920), light
and dark, with what a click opens in it, and printed on A4, Letter and A4 across: of runs of 3, 30 and 250
tokens, in other scripts, of a generation, of one token, of a run without most of its sites, beside a second
text, at the size for a projector, of random models of GPT-Neo's and Gemma 2's shape; and the live page in
use. `--gpt2` adds a random model of GPT-2 small's shape; `--sizes 1280 1920` takes these only, and prints
nothing. Each run's panels at one size stand side by side in `sheet-*.png`.
Needs what the browser's tests need; pages of the print are PNG where pdftoppm is there.
"""

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from support import gemma2_checkpoint, gpt_neo_checkpoint, needs
from support.paper import PAPERS
from support.random_model import random_model
from support.viewer_browser import browser, visit

import gpt2np

TEXT = "Elizabeth was not sorry that Mr. Darcy was"
PANELS = [
    *["map", "attention", "lens", "contributions", "mlp", "residual", "weights"],
    *["against", "generation", "glossary"],
]
OPENED = {  # what is drawn only when it is clicked
    "map": ".every-position summary",
    "attention": ".all-heads summary",
    "weights": ".boxed:nth-last-child(2)",
}
IDS = [3, 17, 17, 30, 0, 8, 3, 40, 41, 42, 17, 30]
GEMMA2 = {"head_dim": 16, "hidden_size": 64, "intermediate_size": 160}
PRINTED = ("3", "30", "250", "generated", "gpt2-30")
COLUMN = 460  # pixels of a picture in a sheet
ACROSS = 5  # pictures in a row of it
SIZES = {"1280": (1280, 800), "390": (390, 844), "1024": (1024, 768), "1920": (1920, 1080)}


def pages(folder: Path, gpt2: bool, wanted: str | None) -> Iterator[tuple[str, Path]]:
    """The pages that are photographed, by name; or the wanted one."""
    tiny = gpt2np.load("tiny")
    runs = {
        "text": lambda: tiny.trace(TEXT),
        "generated": lambda: tiny.generate(
            "Elizabeth was",
            max_new_tokens=24,
            temperature=0.9,
            top_k=50,
            top_p=0.9,
            seed=3,
            keep="*",
            ledger=True,
        ).finish(),
        "3": lambda: tiny.trace("Elizabeth was"),
        "30": lambda: tiny.trace(tiny.tokenizer.encode(f"{TEXT} " * 4)[:30]),
        "250": lambda: tiny.trace(tiny.tokenizer.encode(f"{TEXT} " * 30)[:250]),
        "scripts": lambda: tiny.trace("日本語 🙂 naïve “quotes” مرحبا e\u0301"),
        "part": lambda: tiny.trace(TEXT, keep="attn.*"),
        "one": lambda: tiny.trace([5]),
        "against": lambda: tiny.trace(TEXT),
        "big": lambda: tiny.trace(TEXT),
        "neo": lambda: neo(folder).trace(IDS),
        "gemma2": lambda: gemma2_checkpoint.in_memory("SFSF", **GEMMA2).trace(IDS),
    }
    options = {"against": {"against": "Elizabeth was not sorry that Mr. Bingley was"}, "big": {"big": True}}
    if gpt2:
        shape = {"n_head": 12, "n_embd": 768, "n_positions": 1024, "vocab_size": 50257}
        small = random_model(dtype="float32", n_layer=12, **shape)
        ids = np.random.default_rng(0).integers(0, 50257, 300).tolist()
        runs["gpt2-30"] = lambda: small.trace(ids[:30])
        runs["gpt2-300"] = lambda: small.trace(ids)
    for name, run in runs.items():
        if wanted not in (None, name):
            continue
        path = folder / f"{name}.html"
        gpt2np.view(run(), out=path, **options.get(name, {}))
        yield name, path


def neo(folder: Path) -> gpt2np.Model:
    """A random model of GPT-Neo's kind, with windows in every second layer."""
    shape = {"num_heads": 4, "hidden_size": 64, "window_size": 5}
    return gpt2np.load(gpt_neo_checkpoint.write(folder / "neo", "GLGL", **shape))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent / "screenshots")
    parser.add_argument("--only", help="only pictures with this in their name")
    parser.add_argument(
        "--run", help="only this run: text, generated, 3, 30, 250, scripts, part, one, against, live, ..."
    )
    parser.add_argument("--sizes", nargs="*", choices=SIZES, help="only these widths, and no print")
    parser.add_argument("--gpt2", action="store_true", help="also a random model of GPT-2 small's shape")
    parser.add_argument("--readme", action="store_true", help="the README's picture, beside this file")
    args = parser.parse_args()
    if reason := needs.missing(["playwright", "chromium"]):
        sys.exit(reason)
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.readme:
        return readme(args.folder / "map.png")
    with browser() as chromium:
        if args.run in (None, "live") and (args.only is None or args.only.startswith("live")):
            alive(chromium, args.folder, args.only)
        for name, path in pages(args.folder, args.gpt2, args.run):
            for size in args.sizes or SIZES:
                for scheme in ("light", "dark"):
                    stem = args.folder / f"{name}-{size}-{scheme}"
                    made = shoot(chromium, path, stem, size, scheme, args.only)
                    if len(made) > 1:
                        sheet(chromium, made, stem.with_name(f"sheet-{stem.name}.png"))
            for paper in PAPERS if name in PRINTED and not args.sizes else ():
                if args.only is None or args.only in f"{name}-print-{paper}":
                    printed(chromium, path, args.folder / f"{name}-print-{paper}", paper)


def alive(chromium, folder: Path, only: str | None) -> None:
    """The live page while somebody types, after a swap, with a head off, during and after a generation."""
    path = folder / "live.html"
    gpt2np.view(gpt2np.load("tiny"), out=path)
    for size in ("1280", "390"):
        width, height = SIZES[size]
        with visit(chromium, path, viewport={"width": width, "height": height}) as page:
            for state in use(page):
                if only is None or only in f"live-{state}-{size}":
                    picture = folder / f"live-{state}-{size}.png"
                    page.page.screenshot(path=picture, full_page=state not in ("start", "generating"))
                    print(picture)


def use(page) -> Iterator[str]:
    """Use a live page, and yield what it then shows."""
    act = page.page

    def settled(script: str = "true") -> None:
        page.until(f"() => gpt2np.idle && !gpt2np.run.missing.follow && ({script})")
        act.wait_for_timeout(150)

    settled()
    yield "start"
    act.locator("textarea").press("Control+End")
    act.keyboard.type(" angry", delay=30)
    settled("gpt2np.run.prompt.endsWith('angry')")
    yield "typing"
    page.show(pos=2, panel="changes")
    act.locator(".others button").first.click()
    settled("gpt2np.run.tokens[2] !== ' was'")
    yield "swapped"
    act.locator(".switch-board summary").click()
    act.get_by_role("button", name="layer 0 head 0", exact=True).click()
    settled("gpt2np.run.model.edits.length")
    act.get_by_role("button", name="Try each part").click()
    page.until("() => /Missed/.test(document.querySelector('.switch-board').textContent)")
    yield "off"
    act.get_by_role("button", name="Generate").click()
    page.until("() => document.querySelector('.growing .token')")
    yield "generating"
    settled("gpt2np.run.generation")
    yield "generated"


def readme(picture: Path) -> None:
    """The map of a run of `tiny`, at the head that looks back to the token before."""
    with browser() as chromium, tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "page.html"
        gpt2np.view(gpt2np.load("tiny").trace(TEXT), out=path)
        with visit(chromium, path, viewport={"width": 1280, "height": 1110}) as page:
            page.show(layer=2, head=1, part="attn.pattern")
            page.page.wait_for_timeout(300)
            page.page.screenshot(path=picture)
    print(picture)


def shoot(chromium, path: Path, stem: Path, size: str, scheme: str, only: str | None) -> list[Path]:
    """Every panel of a page at one size and in one scheme, whole."""
    width, height = SIZES[size]
    pictures = {panel: stem.with_name(f"{stem.name}-{panel}.png") for panel in PANELS}
    wanted = {panel: picture for panel, picture in pictures.items() if only is None or only in picture.name}
    made: list[Path] = []
    if not wanted:
        return made
    with visit(chromium, path, viewport={"width": width, "height": height}, color_scheme=scheme) as page:
        for panel, picture in wanted.items():
            page.show(panel=panel)
            if page.focus["panel"] != panel:  # a text has no panel of choices
                continue
            if panel in OPENED and page.page.locator(OPENED[panel]).count():
                page.page.locator(OPENED[panel]).first.click()
                page.js("() => scrollTo(0, 0)")
            page.page.wait_for_timeout(150)
            page.page.screenshot(path=picture, full_page=True)
            print(picture)
            made.append(picture)
    return made


def sheet(chromium, pictures: list[Path], out: Path) -> None:
    """Pictures side by side, in one of them all."""
    images = "".join(
        f'<img src="{picture.as_uri()}" width="{COLUMN}" style="align-self:start">' for picture in pictures
    )
    source = out.with_suffix(".html")
    source.write_text(
        f'<body style="margin:4px;background:#888"><div style="display:flex;flex-wrap:wrap;gap:8px">{images}'
    )
    page = chromium.new_page(viewport={"width": (COLUMN + 8) * min(ACROSS, len(pictures)) + 8, "height": 600})
    page.goto(source.as_uri())
    page.screenshot(path=out, full_page=True)
    page.close()
    source.unlink()


def printed(chromium, path: Path, stem: Path, paper: str) -> None:
    """The print of a page as PDF, each sheet of paper as PNG, and all of them side by side."""
    pdf = stem.with_suffix(".pdf")
    with visit(chromium, path) as page:
        page.page.pdf(path=pdf, print_background=True, **PAPERS[paper])
    if shutil.which("pdftoppm"):
        with contextlib.suppress(subprocess.CalledProcessError):
            subprocess.run(["pdftoppm", "-r", "60", "-png", pdf, stem], check=True)
        if pictures := sorted(stem.parent.glob(f"{stem.name}-*.png")):
            sheet(chromium, pictures, stem.with_name(f"sheet-{stem.name}.png"))
    print(pdf)


if __name__ == "__main__":
    main()
