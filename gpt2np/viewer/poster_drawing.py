"""Drawing a poster: texts, boxes, and vectors as strips of pixels, in one SVG that needs nothing else."""

import base64
import html
import struct
import textwrap
import zlib

import numpy as np

from gpt2np.ops import Array

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
WIDE = 0.52  # of a letter, as a share of its size


class Drawing:
    """An SVG in the making; numbers are tenths of a millimetre."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.parts: list[str] = []

    def svg(self) -> str:
        """The whole, as large on paper as it is drawn."""
        size = f'width="{self.width / 10}mm" height="{self.height / 10}mm"'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {self.width} {self.height}" '
            'font-family="system-ui, Liberation Sans, sans-serif" fill="#1c1e22">\n'
            f'<rect width="{self.width}" height="{self.height}" fill="#fff"/>\n'
            + "\n".join(self.parts)
            + "\n</svg>\n"
        )

    def text(
        self,
        x: float,
        y: float,
        words: str,
        size: float = 42,
        fill: str = "#1c1e22",
        weight: int = 400,
        anchor: str = "start",
    ) -> None:
        """A line of text; whatever it says stays text."""
        shown = "".join(c if c.isprintable() else "\ufffd" for c in words)
        self.parts.append(
            f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size:.0f}" fill="{fill}" font-weight="{weight}" '
            f'text-anchor="{anchor}">{html.escape(shown)}</text>'
        )

    def paragraph(
        self, x: float, y: float, words: str, width: float, size: float = 42, fill: str = "#33373d"
    ) -> float:
        """Lines of text no wider than that; returns where the next thing may begin."""
        for line in textwrap.wrap(words, max(10, int(width / (size * WIDE)))):
            self.text(x, y, line, size, fill)
            y += size * 1.3
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
    ) -> None:
        """A rectangle."""
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0, width):.1f}" height="{height:.1f}" fill="{fill}" '
            f'stroke="{line}" stroke-width="4" rx="{round}"/>'
        )

    def line(self, *points: tuple[float, float], ink: str = "#b3470b", width: float = 8) -> None:
        """A line through points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{ink}" stroke-width="{width}"/>')

    def pixels(self, x: float, y: float, width: float, height: float, colours: Array) -> None:
        """An array of colours [row, column, 3] as a picture whose pixels stay sharp."""
        self.parts.append(
            f'<image x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f'preserveAspectRatio="none" image-rendering="pixelated" '
            f'href="data:image/png;base64,{base64.b64encode(png(colours)).decode("ascii")}"/>'
        )

    def strip(self, x: float, y: float, width: float, height: float, vector: Array, rows: int = 1) -> None:
        """A vector as a strip, a pixel for each component; a long one folded into rows."""
        values = np.nan_to_num(vector.astype(np.float64))
        full = np.percentile(np.abs(values), FULL) or 1.0
        places = 0.5 + 0.5 * np.sign(values) * np.minimum(1, np.abs(values) / full) ** 0.8
        columns = -(-len(values) // rows)
        padded = np.pad(places, (0, columns * rows - len(values)), constant_values=0.5)
        self.pixels(x, y, width, height, ramp(DIVERGING, padded.reshape(rows, columns)))


def ramp(stops: tuple[tuple[int, int, int], ...], places: Array) -> Array:
    """Colours [..., 3] of places from 0 to 1 on a scale."""
    at = np.clip(places, 0, 1) * (len(stops) - 1)
    each = np.stack([np.interp(at, range(len(stops)), channel) for channel in np.transpose(stops)], axis=-1)
    return np.asarray(np.rint(each), np.uint8)


def png(colours: Array) -> bytes:
    """A picture [row, column, 3] of bytes as PNG."""
    height, width, _ = colours.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), colours.reshape(height, -1)], axis=1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    image = chunk(b"IDAT", zlib.compress(lines.tobytes(), 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + image + chunk(b"IEND", b"")
