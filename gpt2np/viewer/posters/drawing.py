"""Drawing a poster: texts, boxes, lines, vectors as strips of pixels, in one SVG that needs nothing else."""

import base64
import html
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from gpt2np.ops import Array
from gpt2np.viewer.posters.lettering import FAMILY, as_drawn, clean, lines
from gpt2np.viewer.posters.lettering import width as width_of

# The page's scales on paper (static/drawing.js has the same, and those of the dark).
DIVERGING = (
    (8, 69, 148),
    (66, 133, 197),
    (173, 205, 230),
    (247, 246, 242),
    (250, 196, 136),
    (224, 122, 27),
    (153, 64, 4),
)
SHARE = (
    (251, 250, 245),
    (214, 230, 150),
    (122, 205, 100),
    (38, 160, 133),
    (43, 112, 142),
    (62, 64, 134),
    (62, 8, 84),
)
FULL = 97  # percent of a vector's components that are not larger than what has full colour
INK, SOFT, LINE, ACCENT = "#1c1e22", "#565b64", "#d4d1c8", "#b3470b"
SMALLEST = 24  # of any letter: 2.4 mm, 6.8 pt
SHARP = (24, 400)  # pixels of a picture down and across, so that viewers that smooth it do not blur it
LEADING = 1.28  # from line to line, in sizes


class Drawing:
    """An SVG in the making; numbers are tenths of a millimetre."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.parts: list[str] = []

    def svg(self, title: str) -> str:
        """The whole, as large on paper as it is drawn."""
        size = f'width="{self.width / 10}mm" height="{self.height / 10}mm"'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {self.width} {self.height}" '
            f'font-family="{FAMILY}" fill="{INK}">\n<title>{html.escape(clean(title))}</title>\n'
            f'<rect width="{self.width}" height="{self.height}" fill="#fff"/>\n'
            + "\n".join(self.parts)
            + "\n</svg>\n"
        )

    @contextmanager
    def group(self, name: str) -> Iterator[None]:
        """What is drawn inside belongs together, under a name."""
        self.parts.append(f'<g id="{html.escape(name)}">')
        yield
        self.parts.append("</g>")

    def text(
        self,
        x: float,
        y: float,
        words: str,
        size: float = 42,
        fill: str = INK,
        weight: int = 400,
        anchor: str = "start",
        turn: int = 0,
        paper: bool = False,
    ) -> None:
        """A line of text; whatever it says stays text. Paper hides what is behind it."""
        if not words:
            return
        more = f' font-weight="{weight}"' if weight != 400 else ""
        more += f' text-anchor="{anchor}"' if anchor != "start" else ""
        more += f' transform="rotate({turn} {x:.0f} {y:.0f})"' if turn else ""
        if paper:
            self.box(x - 4, y - size, width_of(words, size, weight) + 8, size * 1.25, "#fff")
        self.parts.append(
            f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size:.0f}" fill="{fill}"{more}>'
            f"{html.escape(as_drawn(words), quote=False)}</text>"
        )

    def paragraph(
        self, x: float, y: float, words: str, width: float, size: float = 42, fill: str = "#33373d"
    ) -> float:
        """Lines of text no wider than that; returns where the next thing may begin."""
        for line in lines(as_drawn(words), width, size):
            self.text(x, y, line, size, fill)
            y += size * LEADING
        return y

    def link(self, x: float, y: float, words: str, address: str, width: float, size: float) -> float:
        """Lines of text that lead to an address."""
        self.parts.append(f'<a href="{html.escape(address)}">')
        y = self.paragraph(x, y, words, width, size, SOFT)
        self.parts.append("</a>")
        return y

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        fill: str = "none",
        line: str = "none",
        round: int = 0,
        ink: float = 4,
    ) -> None:
        """A rectangle."""
        more = f' stroke="{line}" stroke-width="{ink:g}"' if line != "none" else ""
        more += f' rx="{round}"' if round else ""
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0, width):.1f}" height="{height:.1f}" '
            f'fill="{fill}"{more}/>'
        )

    def line(
        self, *points: tuple[float, float], ink: str = ACCENT, width: float = 8, opacity: float = 1
    ) -> None:
        """A line through points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        more = f' opacity="{opacity}"' if opacity < 1 else ""
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{ink}" stroke-width="{width:.1f}"{more}/>'
        )

    def curve(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        ink: str,
        width: float,
        opacity: float = 1,
    ) -> None:
        """A curve that leaves one point downwards and comes into another from above."""
        (x, y), (u, v) = start, end
        middle = (y + v) / 2
        self.parts.append(
            f'<path d="M{x:.1f},{y:.1f} C{x:.1f},{middle:.1f} {u:.1f},{middle:.1f} {u:.1f},{v:.1f}" '
            f'fill="none" stroke="{ink}" stroke-width="{width:.1f}" opacity="{opacity}"/>'
        )

    def dot(self, x: float, y: float, radius: float, fill: str = ACCENT, line: str = "none") -> None:
        """A filled circle."""
        more = f' stroke="{line}" stroke-width="5"' if line != "none" else ""
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{fill}"{more}/>')

    def pixels(self, x: float, y: float, width: float, height: float, colours: Array) -> None:
        """An array of colours [row, column, 3] as a picture whose pixels stay sharp."""
        tall, across = (max(1, -(-least // n)) for least, n in zip(SHARP, colours.shape, strict=False))
        colours = colours.repeat(tall, axis=0).repeat(across, axis=1)
        self.parts.append(
            f'<image x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f'preserveAspectRatio="none" image-rendering="pixelated" '
            f'href="data:image/png;base64,{base64.b64encode(png(colours)).decode("ascii")}"/>'
        )

    def strip(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        vector: Array,
        rows: int = 1,
        full: float | None = None,
    ) -> None:
        """A vector as a strip, a pixel for each component; a long one folded into rows.

        `full` is what has full colour.
        """
        values = np.nan_to_num(vector.astype(np.float64))
        columns = -(-len(values) // rows)
        shown = strip_colours(values, full_colour(values) if full is None else full)
        padded = np.pad(shown, ((0, columns * rows - len(values)), (0, 0)), constant_values=255)
        self.pixels(x, y, width, height, padded.reshape(rows, columns, 3))


def full_colour(values: Array) -> float:
    """The size that has full colour: of 100 components, only three are larger."""
    return float(np.percentile(np.abs(np.nan_to_num(values.astype(np.float64))), FULL)) or 1.0


def strip_colours(values: Array, full: float) -> Array:
    """The colours [..., 3] of components: blue below 0, orange above."""
    return ramp(DIVERGING, 0.5 + 0.5 * np.sign(values) * np.minimum(1, np.abs(values) / full) ** 0.8)


def ramp(stops: tuple[tuple[int, int, int], ...], places: Array) -> Array:
    """Colours [..., 3] of places from 0 to 1 on a scale."""
    at = np.clip(places, 0, 1) * (len(stops) - 1)
    each = np.stack([np.interp(at, range(len(stops)), channel) for channel in np.transpose(stops)], axis=-1)
    return np.asarray(np.rint(each), np.uint8)


def png(colours: Array) -> bytes:
    """A picture [row, column, 3] of bytes as PNG."""
    height, width, _ = colours.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), colours.reshape(height, -1)], axis=1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    image = chunk(b"IDAT", zlib.compress(rows.tobytes(), 6))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + image + chunk(b"IEND", b"")
