"""A page on paper: its print as PDF, and what poppler finds on each sheet."""

import subprocess
from pathlib import Path
from xml.etree import ElementTree

from support.viewer_browser import visit

PAPERS = {
    "A4": {"format": "A4"},
    "Letter": {"format": "Letter"},
    "across": {"format": "A4", "landscape": True},
    "Letter across": {"format": "Letter", "landscape": True},
}


def print_page(chromium, path: Path, paper: str = "A4", hash: str = "", **options) -> Path:
    """The print of a page as PDF; `hash` is what stands behind its address, the rest is for the browser."""
    pdf = path.with_name(f"{path.stem}{hash} {paper}.pdf")
    with visit(chromium, path, **options) as page:
        if hash:
            page.js("hash => { location.hash = hash }", hash)
            page.page.wait_for_timeout(200)
        page.page.pdf(path=pdf, **PAPERS[paper])
    return pdf


def sheets(pdf: Path) -> list[str]:
    """The text of each sheet."""
    return _poppler("-layout", pdf).split("\f")[:-1]


def lines(pdf: Path) -> list[list[tuple[str, dict[str, float]]]]:
    """Of each sheet the lines of text, each with its box in points: xMin, xMax, yMin, yMax."""
    document = ElementTree.fromstring(_poppler("-bbox-layout", pdf).encode())
    space = "{http://www.w3.org/1999/xhtml}"
    return [
        [
            (
                " ".join(word.text or "" for word in line.iter(f"{space}word")),
                {edge: float(at) for edge, at in line.attrib.items()},
            )
            for line in sheet.iter(f"{space}line")
        ]
        for sheet in document.iter(f"{space}page")
    ]


def _poppler(mode: str, pdf: Path) -> str:
    found = subprocess.run(["pdftotext", mode, pdf, "-"], capture_output=True, check=True)
    return found.stdout.decode("utf-8", "replace")  # emoji come in halves
