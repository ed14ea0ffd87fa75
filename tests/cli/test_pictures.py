"""Pictures of the command line: what stands in the cells, which way they lie, titles that stand alone."""

import numpy as np
import pytest
from support import needs
from support.command_line import run

needs.module("matplotlib")

from gpt2np.analysis import plot
from gpt2np.analysis.lens import logit_lens

TEXT = "Elizabeth was not"
PATCH = ["Elizabeth was very", "Elizabeth had very", "--answer", " much", "--wrong", " good"]


@pytest.fixture
def drawn(capsys, monkeypatch, tmp_path):
    """Runs a command with --png: its figure, the array that was drawn, and what it printed."""

    def draw(*argv, name="p.png"):
        seen = []
        for kind in ("_grid", "_bars"):
            inner = getattr(plot, kind)

            def spy(figure, axes, named, *rest, inner=inner):
                seen.append((figure, named))
                return inner(figure, axes, named, *rest)

            monkeypatch.setattr(plot, kind, spy)
        code, out, err = run(capsys, *argv, "--png", tmp_path / name, "--force")
        assert code == 0
        assert f"gpt2np: wrote {tmp_path / name}: " in err
        assert (tmp_path / name).stat().st_size > 1000
        (figure, named), *_ = seen
        return figure, named, out

    return draw


def cells(figure, named):
    """The texts of the cells, by row."""
    texts = np.array([text.get_text() for text in figure.axes[0].texts])
    return texts.reshape(named.array.shape).tolist() if texts.size else None


def visible(token):
    """A token as a picture shows it."""
    return token.replace(" ", "␣") if token.startswith(" ") else token.replace("\n", "\\n")


def test_lens_has_the_likeliest_token_in_each_cell(drawn, tiny):
    figure, named, _ = drawn("lens", TEXT)
    found = logit_lens(tiny.trace(TEXT))
    assert named.axes == ("site", "pos")
    np.testing.assert_allclose(named.array, found.top_probabilities.array[..., 0])
    ids = found.top_ids.array[..., 0].tolist()
    assert cells(figure, named) == [[visible(tiny.tokens([i])[0]) for i in row] for row in ids]
    title = figure.get_suptitle()
    assert title == f"logit lens: the likeliest next tokens after each layer\ntiny: {TEXT}"
    assert figure.axes[1].get_ylabel() == "probability"


@pytest.mark.parametrize(("n", "tokens"), [(30, True), (54, True), (55, False), (200, False)])
def test_lens_of_a_long_text_has_shorter_tokens_or_says_where_they_are(drawn, n, tokens):
    figure, named, _ = drawn("lens", "--tokens", ",".join(str(i) for i in range(300, 300 + n)))
    assert named.array.shape[1] == n
    assert bool(figure.axes[0].texts) == tokens
    assert ("--pos N shows those of one" in figure.get_suptitle()) == (not tokens)
    assert figure.get_size_inches()[0] < 30


def test_lens_at_one_position_has_its_candidates_by_rank(drawn, tiny):
    figure, named, _ = drawn("lens", TEXT, "--pos", "1", "--top", "7")
    found = logit_lens(tiny.trace(TEXT), k=7, pos=1)
    assert named.axes == ("site", "rank")
    assert named.labels["rank"] == [str(i) for i in range(1, 8)]
    np.testing.assert_allclose(named.array, found.top_probabilities.array[:, 0])
    assert cells(figure, named)[-1][0] == visible(tiny.tokens([int(found.top_ids.array[-1, 0, 0])])[0])
    assert "position 1 |lizabeth|" in figure.get_suptitle()
    assert drawn("lens", TEXT, "--pos", "all")[1].axes == ("site", "pos")


def test_lens_of_one_token_is_coloured_by_its_probability(drawn, tiny):
    figure, named, _ = drawn("lens", TEXT, "--token", " the")
    np.testing.assert_allclose(named.array, logit_lens(tiny.trace(TEXT), " the").probability.array)
    assert figure.axes[1].get_ylabel() == "probability of | the|"


@pytest.mark.parametrize(
    "argv",
    [
        ["heads", TEXT],
        ["circuits"],
        ["circuits", "--score", "copying"],
        ["stats", TEXT],
        ["patch", *PATCH],
        ["trace", TEXT, "--show", "h.1.attn.pattern", "--head", "0"],
    ],
    ids=" ".join,
)
def test_small_grids_have_their_numbers(drawn, argv):
    figure, named, _ = drawn(*argv)
    shown = cells(figure, named)
    for row, values in zip(shown, named.array.tolist(), strict=True):
        for text, value in zip(row, values, strict=True):
            assert float(text) == pytest.approx(value, abs=0.0051)


def test_large_grids_and_impossible_cells_have_none(drawn):
    figure, named, _ = drawn("trace", "To be, or not to be: that is the question. " * 2, "--show", "ln_f")
    assert cells(figure, named) is None
    figure, named, _ = drawn("trace", TEXT, "--show", "h.1.attn.scores", "--head", "0")
    assert len(figure.axes[0].texts) == np.isfinite(named.array).sum() == 10


def test_texts_in_cells_can_be_read(drawn):
    figure, named, _ = drawn("circuits")
    image = figure.axes[0].images[0]
    for text, value in zip(figure.axes[0].texts, named.array.ravel(), strict=True):
        red, green, blue, _ = image.cmap(image.norm(value))
        light = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
        high, low = (
            max(light, (text.get_color() == "white") * 1.0),
            min(light, (text.get_color() == "white") * 1.0),
        )
        assert (high + 0.05) / (low + 0.05) > 4.5


def test_patch_lies_as_its_table_does(drawn):
    figure, named, out = drawn("patch", *PATCH, "--over", "resid_post")
    assert named.axes == ("pos", "layer")
    rows = [line.split()[-4:] for line in out.splitlines()[-4:]]
    assert cells(figure, named) == rows
    assert "tiny: | much| against | good|" in figure.get_suptitle()


@pytest.mark.parametrize(
    ("argv", "down", "across"),
    [
        (["trace", TEXT, "--show", "h.1.attn.pattern", "--pos", "-1"], "key", "head"),
        (["trace", TEXT, "--show", "h.1.attn.pattern", "--head", "1"], "query", "key"),
        (["trace", TEXT, "--show", "h.1.mlp.post"], "pos", "d_mlp"),
    ],
)
def test_positions_go_down(drawn, argv, down, across):
    _, named, out = drawn(*argv)
    assert named.axes == (down, across)
    assert f"{down}\\{across}" in out


@pytest.mark.parametrize("pos", [[], ["--pos", "-1"]])
def test_of_many_neurons_those_that_are_most_active_are_drawn(drawn, tiny, pos):
    figure, named, _ = drawn("trace", TEXT, "--show", "h.1.mlp.post", *pos)
    values = tiny.trace(TEXT)["h.1.mlp.post"][-1:] if pos else tiny.trace(TEXT)["h.1.mlp.post"]
    kept = [int(name) for name in named.labels["d_mlp"]]
    assert kept == sorted(np.argsort(-np.abs(values).max(axis=0))[:40].tolist())
    np.testing.assert_array_equal(named.array, values[0, kept] if pos else values[:, kept])
    title = figure.get_suptitle().replace("\n", " ")
    assert "The MLP's neurons after the activation function" in title
    assert "the 40 of the largest magnitude, of 768" in title
    assert title.endswith(f"tiny: {TEXT}")


@pytest.mark.parametrize("name", ["p.png", "p.svg", "p.pdf", "P.SVG"])
def test_the_name_says_the_kind(drawn, name):
    drawn("heads", TEXT, name=name)


@pytest.mark.every(3)
@pytest.mark.parametrize("text", ["日本語 🙂 naïve “quotes”", "x " * 100, "a\n\n\tb", "$x^2$ \\frac{1}"])
@pytest.mark.parametrize("argv", [["lens"], ["lens", "--pos", "0"], ["heads"]], ids=" ".join)
def test_any_text_can_be_drawn(drawn, argv, text):
    drawn(argv[0], text, *argv[1:])
