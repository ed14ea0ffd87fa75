"""Pictures: what is on them, what they refuse, and that nobody else's figures are touched."""

import itertools
import subprocess
import sys
import warnings

import numpy as np
import pytest
from support import needs

needs.module("matplotlib")

from matplotlib import image

from gpt2np.analysis import plot
from gpt2np.analysis.named_array import NamedArray
from gpt2np.errors import InputError

AWKWARD = [
    " the",
    "$5",
    "$x_2^$",
    "\n\t",
    "日本",
    "😀",
    "a\x07b",
    "\\frac{",
    "\ud800",
    "%",
    "",
    "   ",
    "é" * 90,
]


def pixels(path):
    """[row, column, colour] in 0 to 1."""
    return image.imread(path)[..., :3]


def draw(named, path, signed=True):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph, a layout that does not fit
        plot.heatmap(named, path, signed=signed)
    return pixels(path)


def grid(values, **labels):
    return NamedArray(np.asarray(values, float), ("layer", "pos"), labels, "a title")


def has(picture, colour, tolerance=0.02):
    """The share of a picture in one colour."""
    return (np.abs(picture - np.array(colour)).max(axis=-1) < tolerance).mean()


WHITE, RED, BLUE = (0.9686, 0.9686, 0.9686), (0.4039, 0, 0.1216), (0.0196, 0.1882, 0.3804)  # of RdBu_r


def test_signed_values_are_centred_at_zero(tmp_path):
    picture = draw(grid([[-1, 0], [0, 4]]), tmp_path / "a.png")
    assert has(picture, RED) > 0.02  # 4, the largest magnitude
    assert has(picture, WHITE) > 0.04  # the zeros, not the middle of -1 and 4
    assert has(picture, BLUE) < 0.01  # -1 is a quarter of the way
    other = draw(grid([[1, 0], [0, -4]]), tmp_path / "b.png")
    assert has(other, BLUE) > 0.02
    assert has(other, WHITE) > 0.04


def test_unsigned_values_go_from_light_to_dark(tmp_path):
    light, dark = (0.9686, 0.9843, 1.0), (0.0314, 0.1882, 0.4196)  # the ends of Blues
    for values in ([[0, 3], [4, 5]], [[-2, 0], [0, 5]]):  # a negative one, which should not be, is lightest
        picture = draw(grid(values), tmp_path / "a.png", signed=False)
        assert has(picture, light, 0.01) > 0.02
        assert has(picture, dark, 0.01) > 0.02


def test_unsigned_values_begin_at_zero(tmp_path):
    """What is nearly the same looks nearly the same: 0.90 is not white because all others are 0.95."""
    figures = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plot, "_grid", spy_on(plot._grid, figures))
        draw(grid([[0.90, 0.95], [0.95, 0.92]]), tmp_path / "a.png", signed=False)
    assert figures[0].axes[0].images[0].get_clim() == (0, 0.95)


def spy_on(function, figures):
    """The same function, which also puts its figure into a list."""

    def spy(figure, *rest):
        figures.append(figure)
        return function(figure, *rest)

    return spy


def test_what_is_not_finite_is_grey(tmp_path):
    grey = (0.8667, 0.8667, 0.8667)
    picture = draw(grid([[1, np.nan], [-np.inf, -1]]), tmp_path / "a.png")
    assert has(picture, grey, 0.005) > 0.1
    assert has(picture, RED) > 0.02
    assert has(draw(grid(np.full((3, 3), np.nan)), tmp_path / "b.png"), grey, 0.005) > 0.2
    draw(NamedArray(np.array([np.nan, np.inf, 1.0]), ("head",)), tmp_path / "c.png")


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("value", [0.0, 3.0, -3.0, 1e-300, 1e300])
def test_equal_values(tmp_path, value, signed):
    draw(grid(np.full((2, 3), value)), tmp_path / "a.png", signed)
    draw(NamedArray(np.full(3, value), ("head",)), tmp_path / "b.png", signed)


@pytest.mark.parametrize("axes", [1, 2])
def test_awkward_labels(tmp_path, axes):
    n = len(AWKWARD)
    values = np.random.default_rng(0).normal(size=(n,) * axes)
    names = ("query", "key")[:axes]
    named = NamedArray(values, names, dict.fromkeys(names, AWKWARD), "of $x_{ and |日本|\n😀 " * 9)
    assert draw(named, tmp_path / "a.png").std() > 0.05
    for suffix in ("svg", "pdf"):
        plot.heatmap(named, tmp_path / f"a.{suffix}", signed=True)
        assert (tmp_path / f"a.{suffix}").stat().st_size > 1000


def test_labels_are_readable():
    labels = plot._Labels(NamedArray(np.zeros(2), ("token",), {"token": [" the", " "]}), ["DejaVu Sans"])
    assert labels._labels == {"token": ["␣the", "␣"]}
    assert labels.shown("a\n\x07日\ud800$") == r"a\n\x07\u65e5\ud800$"
    assert len(labels.cut("x" * 500)) == plot.LONGEST


@pytest.mark.parametrize("shape", [(1,), (400,), (1, 1), (1, 200), (200, 1), (12, 12), (40, 40), (300, 300)])
def test_any_size_fits_on_a_screen(tmp_path, shape):
    values, names = np.random.default_rng(0).normal(size=shape), ("query", "key")[: len(shape)]
    labels = {"key": [f" token {i}" for i in range(shape[1])]} if len(shape) == 2 else {}
    height, width, _ = draw(NamedArray(values, names, labels, "scores"), tmp_path / "a.png").shape
    assert 150 < height < 2000
    assert 400 < width < 2400


def test_ticks_do_not_overlap(tmp_path):
    figures, many = [], [f"h.{i}.attn.head.0" for i in range(158)]  # as many components as GPT-2 small has
    labels = {"pos": [f" token {i}" for i in range(40)]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plot, "_grid", spy_on(plot._grid, figures))
        pictures = [grid(np.eye(40), pos=labels["pos"]), grid(np.eye(158), layer=many, pos=many)]
        for named in (*pictures, grid(np.eye(300)), grid(np.eye(12, 1000))):
            plot.heatmap(named, tmp_path / "a.png", signed=True)
    for figure in figures:
        for side in (figure.axes[0].xaxis, figure.axes[0].yaxis):
            boxes = [text.get_window_extent() for text in side.get_ticklabels()]
            for a, b in itertools.pairwise(boxes):
                assert not a.overlaps(b)
    assert len(figures[0].axes[0].get_xticklabels()) == 40  # every token has its label
    assert len(figures[1].axes[0].get_xticklabels()) == len(figures[1].axes[0].get_yticklabels()) == 158
    assert figures[1].get_size_inches().min() > 25 > 16 > figures[0].get_size_inches().max()
    assert figures[0].axes[0].get_xlabel() == "pos"
    assert figures[0].axes[0].get_ylabel() == "layer"


def test_the_axis_of_bars(tmp_path):
    figures, counts = [], NamedArray(np.array([38_597_376.0, 6e7]), ("component",), {"component": ["a", "b"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plot, "_bars", spy_on(plot._bars, figures))
        plot.heatmap(counts, tmp_path / "a.png", signed=False, quantity="parameters")
        plot.heatmap(NamedArray(np.array([0.25, -3.0]), ("head",)), tmp_path / "b.png", signed=True)
    many, few = (figure.axes[0] for figure in figures)
    assert many.get_xlabel() == "parameters"
    texts = [text.get_text() for text in many.get_xticklabels()]
    assert "60 M" in texts
    assert many.xaxis.get_offset_text().get_text() == ""
    assert few.get_ylabel() == "value"
    assert few.get_ylim()[0] < -3


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.gif", "a", "a.png.txt", ".png"])
def test_unknown_suffix(tmp_path, name):
    with pytest.raises(InputError, match=r"ends in \.png, \.svg, \.pdf"):
        plot.heatmap(grid([[1, 2]]), tmp_path / name, signed=True)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_path(tmp_path):
    for path in (tmp_path / "no" / "a.png", tmp_path / "folder.png"):
        (tmp_path / "folder.png").mkdir(exist_ok=True)
        with pytest.raises(InputError, match="cannot be written"):
            plot.heatmap(grid([[1, 2]]), path, signed=True)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.png"]


@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (2, 2, 2)])
def test_other_shapes(tmp_path, shape):
    named = NamedArray(np.zeros(shape), ("layer", "head", "pos")[: len(shape)])
    with pytest.raises(InputError, match="one axis or two"):
        plot.heatmap(named, tmp_path / "a.png", signed=True)
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"pip install 'gpt2np\[plot\]'"):
        plot.heatmap(grid([[1, 2]]), tmp_path / "a.png", signed=True)
    assert list(tmp_path.iterdir()) == []


ALONE = """
import sys
import numpy as np
from gpt2np.analysis.plot import heatmap
from gpt2np.analysis.named_array import NamedArray
assert "matplotlib" not in sys.modules
import matplotlib
matplotlib.rcParams["font.family"] = ["serif"]
settings = ["font.family", "text.usetex", "axes.unicode_minus"]
before = [matplotlib.rcParams[s] for s in settings]
heatmap(NamedArray(np.eye(3), ("a", "b")), "a.png", signed=False)
assert "matplotlib.pyplot" not in sys.modules
assert [matplotlib.rcParams[s] for s in settings] == before
"""


def test_pyplot_is_left_alone(tmp_path):
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.png").exists()
