"""How much of a trace goes into a page: the budget, and the first level of detail that fits into it.

Every level is a table of arrays with their shapes (`layout`), so that its bytes are counted before anything
is computed. Gzip only makes them fewer.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from gpt2np.tracing.contract import ModelConfig
from gpt2np.tracing.lines import embedding_parts, ends_with_a_shift

MB = 1_000_000
BUDGET = (
    (30, 3 * MB),
    (300, 10 * MB),
    (1024, 20 * MB),
)  # bytes of a page for so many tokens; between: a line
COMPACT = MB // 2  # of a trace's own picture in a notebook
PAGE = 350_000  # room for everything but the arrays: code, style, and the header
TOP = 10  # predictions of each position
BINS = 48  # of the histogram of a layer's neurons before GELU
REACH = 6.0  # it goes from minus to plus this
NEAREST = 5  # rows of the unembedding that a final vector is held beside
OUTLIERS = 6  # dimensions named for each point of the residual stream
OUTPUTS = "attn.heads"  # [pos, head, n_embd]
OTHER = "other:"  # begins the names of the arrays of a second run

Layout = dict[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Detail:
    """One level: how many cells a vector has, how attention is stored, and how much of each list."""

    cells: int  # of a vector of n_embd
    head_cells: int  # of one of d_head
    output_cells: int  # of one head's output vector; 0 leaves them out
    mlp_cells: int  # of the neurons of a layer
    floats: bool  # cells as float16 instead of bytes
    attention: str  # f4, u2, u1: the whole triangle; or "top"
    top: int  # weights kept for each query and head, if only the top ones
    scores: bool  # also the scores before softmax
    lens: int  # tokens in each cell of the logit lens
    followed: int  # tokens for each position whose rank is followed
    targets: int  # tokens for each position whose logit is taken apart
    neurons: int  # named for each layer and position
    recent: int = 10**9  # vectors and neurons of the last so many positions
    recent_lens: int = 10**9  # lens and contributions too
    compact: bool = False  # the map and attention only


LEVELS = (
    Detail(256, 64, 256, 1024, True, "f4", 0, True, 10, 24, 4, 20),
    Detail(256, 64, 128, 768, False, "f4", 0, True, 10, 24, 4, 20),
    Detail(192, 32, 96, 512, False, "f4", 0, True, 10, 24, 4, 20),
    Detail(128, 32, 64, 256, False, "f4", 0, True, 10, 16, 4, 16),
    Detail(128, 16, 48, 192, False, "f4", 0, True, 10, 16, 4, 12),
    Detail(96, 16, 32, 128, False, "u2", 0, True, 10, 12, 4, 12),
    Detail(96, 16, 32, 128, False, "u1", 0, False, 10, 10, 3, 10),
    Detail(64, 16, 24, 96, False, "u1", 0, False, 10, 8, 2, 10, recent_lens=512),
    Detail(64, 8, 16, 96, False, "top", 24, False, 10, 6, 2, 10, recent_lens=256),
    Detail(48, 8, 16, 64, False, "top", 16, False, 10, 4, 2, 10, recent_lens=256),
    Detail(32, 8, 8, 48, False, "top", 12, False, 10, 4, 1, 10, recent_lens=128),
    Detail(32, 4, 8, 48, False, "top", 8, False, 10, 2, 1, 10, 512, 128),
    Detail(32, 4, 0, 32, False, "top", 6, False, 10, 1, 1, 10, 256, 64),
    Detail(32, 4, 0, 32, False, "top", 4, False, 10, 1, 1, 10, 64, 32),
    Detail(16, 2, 0, 16, False, "top", 2, False, 5, 1, 1, 5, 16, 8),
    Detail(16, 2, 0, 16, False, "top", 1, False, 2, 1, 1, 2, 2, 1),
)
COMPACT_LEVELS = tuple(replace(level, compact=True, scores=False) for level in LEVELS)


class Drawn(NamedTuple):
    """Names of sites by the kind of their vectors; `heads` have one for each head, or group of heads."""

    outside: tuple[str, ...]  # of no layer, n_embd wide
    layered: tuple[str, ...]  # of each layer
    heads: tuple[str, ...]
    neurons: tuple[str, ...]


@dataclass(frozen=True)
class Sizes:
    """What the sizes of a page follow from: the model's, the number of tokens, and the layers that ran."""

    config: ModelConfig
    tokens: int
    layers: int
    other: int = 0  # tokens of a second run beside it
    columns: int = 0  # pairs of positions that are held side by side

    @property
    def longest(self) -> int:
        """Tokens of the longer run."""
        return max(self.tokens, self.other)

    @property
    def tops(self) -> int:
        """Predictions of each position."""
        return min(TOP, self.config.vocab_size)

    @property
    def triangle(self) -> int:
        """Pairs of a query and a key that is not after it."""
        return self.tokens * (self.tokens + 1) // 2

    @property
    def points(self) -> int:
        """Points of the residual stream: embed, and two for each block."""
        return 2 * self.layers + 1

    @functools.cached_property
    def components(self) -> int:
        """Parts of a logit: embeddings, of each block heads, MLP and bias if any, ln_f's bias if any."""
        of_layer = self.config.n_head + 1 + (self.config.architecture.attention_bias is not None)
        return len(embedding_parts(self.config)) + self.layers * of_layer + ends_with_a_shift(self.config)

    @property
    def gated(self) -> bool:
        """Whether the neurons of the MLP have gates."""
        return "mlp.act" in self.config.architecture.sites

    @functools.cached_property
    def drawn(self) -> "Drawn":
        """The sites of which the page has vectors."""
        table, derived = self.config.architecture.sites, self.config.architecture.derived
        stored = [s for s in table if not s.derived or derived[s.name].view is not None]

        def of(*axes: str, layered: bool = True) -> tuple[str, ...]:
            return tuple(s.name for s in stored if s.axes in axes and s.layered == layered)

        heads = of("pos head d_head", "pos kv_head d_head")
        return Drawn(of("pos n_embd", layered=False), of("pos n_embd"), heads, of("pos d_mlp"))


def budget(tokens: int) -> int:
    """Bytes that a page of so many tokens may have.

    Example:
        >>> [budget(n) for n in (5, 30, 300, 1024)]
        [3000000, 3000000, 10000000, 20000000]
    """
    low, most = BUDGET[0]
    if tokens <= low:
        return most
    for high, more in BUDGET[1:]:
        if tokens <= high:
            return most + (more - most) * (tokens - low) // (high - low)
        low, most = high, more
    return most


def levels_within(sizes: Sizes, most: int, compact: bool = False) -> Iterator[Detail]:
    """The levels whose bytes fit, most detailed first; the last level if none does."""
    ladder = COMPACT_LEVELS if compact else LEVELS
    fitting = [level for level in ladder if page_bytes(sizes, level) <= most]
    yield from fitting or ladder[-1:]


def page_bytes(sizes: Sizes, detail: Detail) -> int:
    """The most that a page can have: its arrays as base64, uncompressed, and `PAGE`."""
    width = {"f4": 4, "u4": 4, "f2": 2, "u2": 2}
    arrays = sum(8 + width.get(kind, 1) * math.prod(shape) for kind, shape in layout(sizes, detail).values())
    return arrays * 4 // 3 + PAGE + 60 * (sizes.tokens + sizes.other)


def layout(sizes: Sizes, detail: Detail) -> Layout:
    """Name, kind and shape of every array of a page."""
    found = vectors_layout(sizes, detail) | attention_layout(sizes, detail) | _rest(sizes, detail)
    return found | (other_layout(sizes, detail) if sizes.other else {})


def vectors_layout(sizes: Sizes, d: Detail) -> Layout:
    """The strips of the map: `x`, what one byte of it means `x:scale`, and `x:stats` (norm, min, max)."""
    c, layers, pos = sizes.config, sizes.layers, min(sizes.tokens, d.recent)
    found: Layout = {}

    def vectors(name: str, shape: tuple[int, ...], n: int, most: int) -> None:
        found.update(strip_layout(name, shape, n, most, d.floats))

    for name in sizes.drawn.outside:
        vectors(name, (pos,), c.n_embd, d.cells)
    for name in sizes.drawn.layered:
        vectors(name, (layers, pos), c.n_embd, d.cells)
    for name in sizes.drawn.heads:
        axis = c.architecture.sites[name].head_axis
        vectors(name, (layers, pos, c.dims[axis or "head"]), c.d_head, d.head_cells)
    if d.output_cells:
        vectors(OUTPUTS, (layers, pos, c.n_head), c.n_embd, d.output_cells)
    for name in sizes.drawn.neurons:
        vectors(name, (layers, pos), c.d_mlp, d.mlp_cells)
    return found


def strip_layout(name: str, shape: tuple[int, ...], n: int, most: int, floats: bool) -> Layout:
    """The arrays of one site's vectors of n numbers, of which at most so many cells are shown."""
    cells = -(-n // -(-n // most))
    found: Layout = {name: ("f2" if floats else "i1", (*shape, cells))}
    if not floats:
        found[f"{name}:scale"] = ("f4", shape)
    return found | {f"{name}:stats": ("f4", (*shape, 1 if len(shape) > 2 else 3))}  # of a head only the norm


def attention_layout(sizes: Sizes, d: Detail) -> Layout:
    """Patterns and scores: triangles row by row, or the largest weights of each row and their keys."""
    shape = (sizes.layers, sizes.config.n_head)
    if d.attention == "top":
        top = (*shape, sizes.tokens, min(d.top, sizes.tokens))
        return {"pattern:key": ("u2", top), "pattern:weight": ("u2", top)}
    found: Layout = {"pattern": (d.attention, (*shape, sizes.triangle))}
    return found | ({"scores": ("f4", (*shape, sizes.triangle))} if d.scores else {})


def other_layout(sizes: Sizes, d: Detail) -> Layout:
    """A second run's attention and predictions, and what the two differ by, column by column."""
    second = replace(sizes, tokens=sizes.other)
    of_it = attention_layout(second, replace(d, scores=False)) | _next(sizes.other, sizes.tops)
    kept = min(sizes.columns, d.recent_lens)
    return {OTHER + name: array for name, array in of_it.items()} | {
        "apart:stream": ("f4", (sizes.layers + 2, sizes.columns, 4)),
        "apart:id": ("u4", (kept, sizes.tops)),
        "apart:p": ("f4", (kept, sizes.tops, 2)),
        "apart:divergence": ("f4", (kept, 2)),
        "apart:pair": ("u4", (kept, 2)),
        "apart:logit": ("f4", (kept, sizes.points, 2)),
    }


def _next(tokens: int, k: int) -> Layout:
    """What each position predicts, and how likely each token was."""
    return {"next:id": ("u4", (tokens, k)), "next:p": ("f4", (tokens, k)), "token:p": ("f4", (tokens,))}


def _rest(sizes: Sizes, d: Detail) -> Layout:
    c, t, layers, points = sizes.config, sizes.tokens, sizes.layers, sizes.points
    recent, lens = min(t, d.recent), min(t, d.recent_lens)
    k = min(d.lens, c.vocab_size)
    found: Layout = {
        **_next(t, sizes.tops),
        "resid:norm": ("f4", (points, t)),
        "resid:cosine": ("f4", (points, t)),
    }
    if d.compact:
        return found
    neurons = min(d.neurons, c.d_mlp)
    if sizes.gated:
        found["neuron:act"] = ("f4", (layers, recent, neurons))
    return found | {
        "resid:dimension": ("u4", (points, OUTLIERS)),
        "resid:ratio": ("f4", (points, OUTLIERS)),
        "resid:kurtosis": ("f4", (points,)),
        "lens:id": ("u4", (points, lens, k)),
        "lens:p": ("f4", (points, lens, k)),
        "lens:entropy": ("f4", (points, lens)),
        "lens:kl": ("f4", (points, lens)),
        "follow:id": ("u4", (lens, d.followed)),
        "follow:rank": ("u4", (points, lens, d.followed)),
        "follow:p": ("f4", (points, lens, d.followed)),
        "near": ("f4", (lens, min(NEAREST, sizes.tops), 3)),
        "push:id": ("u4", (lens, d.targets)),
        "push": ("f4", (lens, d.targets, sizes.components)),
        "neuron:id": ("u4", (layers, recent, neurons)),
        "neuron:pre": ("f4", (layers, recent, neurons)),
        "neuron:post": ("f4", (layers, recent, neurons)),
        "neuron:bins": ("u2", (layers, recent, BINS)),
        "active:layer": ("u2", (recent, min(10, c.d_mlp * layers))),
        "active:id": ("u4", (recent, min(10, c.d_mlp * layers))),
        "active:post": ("f4", (recent, min(10, c.d_mlp * layers))),
        "sparsity": ("f4", (layers, 2)),
    }
