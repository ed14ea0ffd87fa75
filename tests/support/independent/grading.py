"""Plants a mistake in an independent program, and grades what compare says of its dump by `table.txt`."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from support.independent import numpy_gpt2, numpy_plants, torch_gpt2, torch_plants
from support.random_model import random_model

from gpt2np.model import Model
from gpt2np.reference.comparison import Comparison, compare
from gpt2np.reference.error_measure import difference
from gpt2np.reference.mistakes import KNOWN

TABLE = Path(__file__).with_name("table.txt")
ANYWHERE = "any"  # in a random layer, or in all
PLACES = (ANYWHERE, "later", "all", "cache")
OUTSIDE = (  # methods that no layer calls: a mistake in one is made once
    "token_ids positions position_rows token_rows together final unembed surprise order read dumped buffers"
    " lookup places input closing vocabulary chances given"
).split()


@dataclass(frozen=True)
class Row:
    """A line of the table: a mistake, where it is made, where it must show, and what it may be called.

    A site after `L.` is one of the layer with the mistake (0 if it is in all), after `last.` one of the last
    layer. `names` are slugs of the catalogue, as it has them
    or should; "-" among them says that none is right as well, alone that only none is. With a few taps
    those after a `;` count, where there is one.
    """

    program: str
    plant: str
    place: str
    site: str  # with every tap
    site_of_few: str  # with a few
    names: tuple[str, ...]
    names_of_few: tuple[str, ...]

    def allowed(self, few: bool) -> tuple[str | None, ...]:
        """Which mistakes compare may name: those in its catalogue; None if there is none."""
        names, known = self.names_of_few if few else self.names, {mistake.slug for mistake in KNOWN}
        named = tuple(name for name in names if name in known)
        return (*named, None) if "-" in names or not named else named


@cache
def rows() -> tuple[Row, ...]:
    """The table."""
    found = []
    for line in TABLE.read_text("utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            program, plant, place, site, few, names = (cell.strip() for cell in line.split("|"))
            whole, _, of_few = (part.split() for part in names.partition(";"))
            found.append(Row(program, plant, place, site, few, tuple(whole), tuple(of_few or whole)))
    return tuple(found)


@dataclass
class Planted:
    """A run with a mistake in it, and what is right about it."""

    row: Row
    few: bool
    layer: int | None  # None: in all of them
    model: Model
    ids: list[int]
    prefill: int | None
    dump: dict[str, np.ndarray]
    names: dict[str, str]

    @property
    def site(self) -> str:
        """Where it must show first."""
        site = self.row.site_of_few if self.few else self.row.site
        number = {"L": self.layer or 0, "last": self.model.config.n_layer - 1}.get(site.partition(".")[0])
        return site if number is None else f"h.{number}.{site.partition('.')[2]}"

    def __str__(self) -> str:
        c = self.model.config
        where = "everywhere" if self.layer is None else f"layer {self.layer}"
        shape = f"{c.n_layer} layers, {c.n_head} heads, {c.n_embd} wide, {len(self.ids)} tokens"
        cached = "" if self.prefill is None else f", {self.prefill} at once"
        return f"{self.row.program}: {self.row.plant}, {where} ({shape}{cached}; {len(self.dump)} arrays)"


def planted(row: Row, seed: int, few: bool = False, precision: str = "float32") -> Planted:
    """The mistake in a random layer of a random shape, with a random prompt."""
    rng = np.random.default_rng([seed, *row.plant.encode()])
    # Sizes of which no two scales or axes are alike by chance: sqrt(d / 2) is not sqrt(n_head).
    n_head, d_head, n_layer = int(rng.choice([2, 3, 5])), int(rng.integers(7, 9)), int(rng.integers(2, 5))
    n_layer = max(n_layer, 3) if row.place == "all" else n_layer
    shape = {"n_layer": n_layer, "n_head": n_head, "n_embd": n_head * d_head, "n_positions": 32}
    shape["vocab_size"] = int(rng.integers(50, 90))
    model = random_model(int(rng.integers(1 << 30)), "float32", **shape)
    n = int(rng.integers(9, 14))
    ids = rng.choice(shape["vocab_size"], n, replace=False).tolist()
    layer: int | None = int(rng.integers(n_layer))
    if row.place == "later":
        layer = int(rng.integers(1, n_layer))
    elif row.place != ANYWHERE or rng.integers(3) == 0:
        layer = None
    prefill = int(rng.integers(3, n - 2)) if row.place == "cache" else None
    dump, names = run(row.program, row.plant, layer, model, ids, prefill, few, precision)
    return Planted(row, few, layer, model, ids, prefill, dump, names)


def run(program, plant, layer, model, ids, prefill=None, few=False, precision="float32"):
    """What an independent program dumps, and what its names mean; `plant` None for no mistake."""
    heads = model.config.n_head
    if program == "numpy":
        made = numpy_gpt2.NumpyGPT2(model.weights, heads, dtype=np.dtype(precision).type)
        plants, names, chosen = numpy_plants.PLANTS, numpy_gpt2.TAPS, numpy_gpt2.FEW
    else:
        made = torch_gpt2.TorchGPT2(model.weights, heads, dtype=getattr(torch, precision))
        plants, names, chosen = torch_plants.PLANTS, torch_gpt2.HOOKS, torch_gpt2.FEW
    if plant is not None:
        for method, wrong in plants[plant](made).items():
            made.replace(method, wrong, None if method in OUTSIDE else layer)
    with np.errstate(all="ignore"):
        dump = made.run(ids, prefill) if program == "numpy" else _arrays(made.run(ids))
    if few:
        names = {theirs: ours for theirs, ours in names.items() if theirs in chosen}
        dump = {name: array for name, array in dump.items() if _stands_for(name) in names}
    return dump, names


def _arrays(tensors):
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _stands_for(name: str) -> str:
    """A name with a star for the layer."""
    return re.sub(r"(?<=^unit)\d+|(?<=@)\d+", "*", name)


def _layer_of(name: str) -> str:
    found = re.search(r"(?<=^unit)\d+|(?<=@)\d+", name)
    return found[0] if found else ""


def departure(row: Row, seed: int, few: bool = False) -> str | None:
    """The first site at which the program with the mistake departs from itself without it, in float64.

    In the order in which GPT-2 computes the sites; scores of keys in the future count for nothing.
    """
    wrong = planted(row, seed, few, "float64")
    right, _ = run(row.program, None, None, wrong.model, wrong.ids, wrong.prefill, few, "float64")
    sites = wrong.model.config.architecture.sites
    meant = {}
    for name in right:
        ours = wrong.names[_stands_for(name)]
        meant[ours.replace("*", _layer_of(name)).partition("[")[0]] = name
    for full, site, _ in sites.expand(wrong.model.config.n_layer):
        if full not in meant:
            continue
        a, b = wrong.dump.get(meant[full]), right[meant[full]]
        if a is None:
            continue
        if a.shape != b.shape:
            return full
        if site.quadratic:
            a, b = (x[0] if row.program == "torch" else x.transpose(2, 0, 1) for x in (a, b))
        if np.max(difference(a, b, site), initial=0) > 1e-8:
            return full
    return None


@dataclass(frozen=True)
class Grade:
    """What compare said, and which of it is right.

    `hidden`: the mistake changes nothing beyond noise, not even in float64, as a lost epsilon beside a large
    variance; `within-noise` is right there, and it counts for nothing.
    """

    planted: Planted
    found: Comparison
    hidden: bool = False

    @property
    def allowed(self) -> tuple[str | None, ...]:
        """Which mistakes may be named."""
        return self.planted.row.allowed(self.planted.few)

    @property
    def has_a_name(self) -> bool:
        """Whether compare has to name it."""
        return not self.hidden and None not in self.allowed

    @property
    def site_right(self) -> bool:
        """Whether the first wrong site is the one in the table."""
        return self.hidden or self.found.site == self.planted.site

    @property
    def name_right(self) -> bool:
        """Whether the mistake is named as the table says, or not named where it says so."""
        return self.hidden or self.found.mistake in self.allowed

    @property
    def wrong_name(self) -> bool:
        """Whether another mistake is named."""
        return self.found.mistake is not None and not self.name_right

    @property
    def right(self) -> bool:
        """Whether both are right."""
        return self.site_right and self.name_right

    @property
    def outcome(self) -> str:
        """In one or two words."""
        if self.hidden:
            return "hidden"
        if self.wrong_name:
            return "wrong name"
        if not self.site_right:
            return "wrong site"
        if not self.name_right:
            return "not named"
        return "named" if self.has_a_name else "rightly without"

    def __str__(self) -> str:
        p = self.planted
        names = " or ".join(name or "no name" for name in self.allowed)
        said = f"{self.found.verdict}, {self.found.site}, {self.found.mistake or 'no name'}"
        return f"{p}: compare said {said}; right is {p.site}, {names}"


def graded(row: Row, seed: int, few: bool = False) -> Grade:
    """Plant, compare, grade."""
    p = planted(row, seed, few)
    found = compared(p)
    hidden = found.verdict == "within-noise" == compared(planted(row, seed, few, "float64")).verdict
    return Grade(p, found, hidden)


def compared(p: Planted) -> Comparison:
    """What compare says."""
    return compare(p.dump, p.model, p.ids, names=p.names, prefill=p.prefill, search=0)
