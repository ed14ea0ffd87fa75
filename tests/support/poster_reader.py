"""Reading a poster: what stands where on it, and the colours of its pictures."""

import base64
import re
import struct
import zlib
from xml.etree import ElementTree

import numpy as np

ISOLATES = {0x2068: None, 0x2069: None}  # around tokens among words
SVG = "{http://www.w3.org/2000/svg}"


def tree(svg):
    return ElementTree.fromstring(svg)


def group(svg, name):
    """What is drawn under a name."""
    found = [part for part in tree(svg).iter(f"{SVG}g") if part.get("id") == name]
    assert len(found) == 1, name
    return found[0]


def words_of(part):
    """What stands on a poster, or on a part of it, every run of spaces as one, without isolates."""
    part = tree(part) if isinstance(part, str) else part
    return " ".join(" ".join(part.itertext()).translate(ISOLATES).split())


def said(part):
    """The same without spaces: where lines are broken does not matter."""
    return re.sub(r"\s", "", words_of(part))


def texts(part):
    return [text.text for text in part.iter(f"{SVG}text")]


def pixels(image):
    """The colours of a picture in a drawing."""
    data = base64.b64decode(image.get("href").partition(",")[2])
    wide, high = struct.unpack(">II", data[16:24])
    start = data.index(b"IDAT") + 4
    rows = np.frombuffer(zlib.decompress(data[start:]), np.uint8).reshape(high, 1 + 3 * wide)
    return rows[:, 1:].reshape(high, wide, 3)
