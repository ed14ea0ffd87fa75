"""Sites: every array that a trace can hold, its axes, what it tells you, its names elsewhere.

Each architecture has a `SiteTable` of its own, in the order of execution; documentation, command line, byte
plan and exporters all read it. A site of a block is written there without its `h.i.`: `attn.pattern` stands
for `h.0.attn.pattern`, `h.1.attn.pattern` and so on. `site_rows.py` has the rows that several tables share.
"""

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from gpt2np.errors import UnknownSiteError, nearest, short

DIALECTS = ("guide", "hf", "transformer_lens", "llm.c")
_PREFIXES = ("transformer.", "blocks.{i}.", "model.layers.{i}.", "model.")  # often left out
_ALIASES = {"attn_logits": "attn_scores", "mlp_pre": "pre", "mlp_post": "post"}  # as TransformerLens has them
TYPESCRIPT = "typescript"  # not a program's names for its own arrays: the properties of a file that we write


@dataclass(frozen=True)
class Site:
    """One row of the table.

    `names` maps a dialect to the names it has there, the first being the usual one; `{i}` stands for
    the layer. `unseen` is what an attention site holds for keys that the query does not see. `captures` are
    its places in capture files, `i` standing for the layer.
    """

    name: str
    axes: str
    doc: str
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    layered: bool = True
    derived: bool = False
    unseen: float | None = None
    dtype: str | None = None  # None: the precision of the run
    captures: tuple[str, ...] = ()

    @functools.cached_property
    def axis_names(self) -> tuple[str, ...]:
        """The axes one by one."""
        return tuple(self.axes.split())

    @property
    def head_axis(self) -> str | None:
        """The axis of its heads: `head`, or `kv_head` where heads share keys and values; None: no heads."""
        return next((axis for axis in ("head", "kv_head") if axis in self.axis_names), None)

    @property
    def quadratic(self) -> bool:
        """Whether its size grows with the square of the prompt's length."""
        return "key" in self.axis_names

    def full_name(self, layer: int | None) -> str:
        """Return the name inside a trace: `h.3.attn.pattern`."""
        return f"h.{layer}.{self.name}" if self.layered else self.name

    def names_elsewhere(self) -> Iterator[str]:
        """Yield every name in every dialect, also without its usual prefix; `{i}` stands for the layer."""
        for names in self.names.values():
            for name in names:
                yield name
                yield from (name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix))

    def dialect_name(self, dialect: str, layer: int | None = None) -> str | None:
        """Return the usual name in a dialect, with the layer filled in; None where it has none."""
        names = self.names.get(dialect)
        return names[0].replace("{i}", str(layer)) if names else None


def names_of(
    guide: str = "", hf: str = "", tl: str = "", llmc: str = "", ts: str = ""
) -> dict[str, tuple[str, ...]]:
    """Return the `names` of a site: for each dialect its names, separated by spaces, the usual one first."""
    given = zip((*DIALECTS, TYPESCRIPT), (guide, hf, tl, llmc, ts), strict=True)
    return {dialect: tuple(names.split()) for dialect, names in given if names}


TOP_K = 10  # the length of axis k
_LAYER = re.compile(r"(?<!\d)(?:(?<=[._\[])-)?\d{1,9}(?!\d)")
_FROM_THE_END = re.compile(r"(?<=[._\[])-(\d{1,9})(?=[._\]])")
_SCALE = re.compile(r"(?:^|\.)(?:hook_)?scale$")
_WEIGHT = re.compile(r"(?:^|\.)(?:weight|bias|[Wb]_[A-Za-z]+|gamma|beta)$")
_IN_A_BLOCK = re.compile(r"(?s)((?:transformer\.)?(?:h|blocks?|layers?)[._]\d+[._])?(.*)")
# What many people call a site.
_MEANT = {
    **dict.fromkeys(("attention", "attn", "attention_pattern"), "attn.pattern"),
    **dict.fromkeys(("residual", "residuals", "resid", "residual_stream", "stream", "hidden"), "resid_post"),
    **dict.fromkeys(("embedding", "embeddings", "embed_out"), "embed"),
    **dict.fromkeys(("mlp", "neuron", "neurons", "activations", "gelu"), "mlp.post"),
    **dict.fromkeys(("query", "queries"), "attn.q"),
    **dict.fromkeys(("keys",), "attn.k"),
    **dict.fromkeys(("values",), "attn.v"),
    **dict.fromkeys(("softmax", "probs", "prediction", "predictions"), "probabilities"),
    **dict.fromkeys(("layer_norm", "layernorm", "ln1"), "ln_1"),
}
OF_TOKENS = ("token_ids", "tokens", "attention_mask", "position_ids")  # attributes of a trace, no sites


def of_tokens(name: str) -> str:
    """Return where to find what comes from the tokens alone."""
    return f"{short(name)} is no site, and every trace has it: trace.{name}, `gpt2np tokenize`"


def _name_and_layer(name: object, layer: int | None) -> tuple[str, int | None]:
    """What a user gave as a site, if it can be one: a name and perhaps a layer.

    Raises:
        UnknownSiteError: it is something else, or a name of what is no site.
    """
    given = name
    if isinstance(name, tuple) and len(name) == 2 and layer is None:
        name, layer = name
    if not isinstance(name, str) or not (layer is None or hasattr(layer, "__index__")):
        what = given if layer is None or given != name else (given, layer)
        raise UnknownSiteError(f"a site is a name, or a name and a layer ('pattern', 0), not {short(what)}")
    if name.split("[")[0] == "hidden_states":
        raise UnknownSiteError(
            "'hidden_states' is no site: its last entry is after ln_f in HF and before it in the guide; "
            "take trace.to('hf') or trace.to('guide'), or h.i.resid_post (before) and ln_f (after)"
        )
    if name in OF_TOKENS:
        raise UnknownSiteError(of_tokens(name))
    return name, layer


def counted_from_the_start(name: str, n_layer: int) -> str:
    """Return a name or pattern with its layer counted from the start: `h.-1.ln_1` is `h.11.ln_1`."""

    def positive(found: re.Match[str]) -> str:
        return str(n_layer - int(found[1])) if 1 <= int(found[1]) <= n_layer else found[0]

    return _FROM_THE_END.sub(positive, name)


class SiteTable:
    """The sites of an architecture, in the order of execution: those of a layer stand together."""

    def __init__(self, sites: Iterable[Site]) -> None:
        self.sites = tuple(sites)
        self.by_name = {site.name: site for site in self.sites}
        layered = [i for i, site in enumerate(self.sites) if site.layered]
        self._layers = slice(layered[0], layered[-1] + 1)
        self.quadratic = tuple(site.name for site in self.sites if site.quadratic)  # scores and pattern
        self.short_names = self._short_names()
        self._index = self._names()

    def __repr__(self) -> str:
        return f"<SiteTable of {len(self.sites)} sites>"

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)

    def __contains__(self, name: object) -> bool:
        """Whether it is the name of a site, without its layer."""
        return name in self.by_name

    def __getitem__(self, name: str) -> Site:
        """The site of this name, without its layer."""
        return self.by_name[name]

    @property
    def before_layers(self) -> tuple[Site, ...]:
        """The sites before the first layer: embeddings."""
        return self.sites[: self._layers.start]

    def expand(self, n_layer: int) -> Iterator[tuple[str, Site, int | None]]:
        """Yield every (full name, site, layer) of a model with so many layers, in execution order."""
        for site in self.before_layers:
            yield site.full_name(None), site, None
        for layer in range(n_layer):
            for site in self.sites[self._layers]:
                yield site.full_name(layer), site, layer
        for site in self.sites[self._layers.stop :]:
            yield site.full_name(None), site, None

    def resolve(
        self, name: str | tuple[str, int], layer: int | None, n_layer: int
    ) -> tuple[Site, int | None]:
        """Return the site and layer that a name of any dialect means.

        The layer stands in the name (`h.3.ln_1`, `blocks.3.hook_resid_mid`, `attentions[3]`) or beside it, as
        `layer` or in a pair `("ln_1", 3)`; -1 is the last one.

        Raises:
            UnknownSiteError: no site has this name, or the layer is missing, superfluous or out of range.

        Example:
            >>> config.architecture.sites.resolve("blocks.3.attn.hook_pattern", None, 12)[0].name
            'attn.pattern'
        """
        name, layer = _name_and_layer(name, layer)
        name = key = counted_from_the_start(name, n_layer)
        if layer is not None and -n_layer <= layer < 0:
            layer = n_layer + int(layer)
        if bracket := re.fullmatch(r"(.+)\[(-?\d{1,9})\]", name):
            key, layer = bracket[1], int(bracket[2])
        elif name not in self._index and (digits := _LAYER.search(name)):
            key, inside = name[: digits.start()] + "{i}" + name[digits.end() :], int(digits[0])
            if key in self._index and layer not in (None, inside):
                raise UnknownSiteError(
                    f"{short(name)} is in layer {inside}, but layer {layer} was asked for beside it"
                )
            layer = inside
        site = self._index.get(key)
        if site is None:
            raise UnknownSiteError(self._why_unknown(name, key, layer))
        if site.layered and layer is None:
            raise UnknownSiteError(f"{short(name)} is in every layer: say which, as in {site.full_name(0)}")
        if not site.layered and layer is not None:
            raise UnknownSiteError(f"{short(name)} is not in a layer: {site.name} has no number")
        if layer is not None and not 0 <= layer < n_layer:
            raise UnknownSiteError(f"{short(name)}: layer {layer} is not one of 0 to {n_layer - 1}")
        return site, layer

    def has(self, name: str, n_layer: int) -> bool:
        """Return whether a name alone, with its layer inside, means a site."""
        try:
            return bool(self.resolve(name, None, n_layer))
        except UnknownSiteError:
            return False

    def _short_names(self) -> dict[str, Site]:
        """Ends of names, ours or TransformerLens', that only one site has: `pattern`, `attn_out`."""
        found: dict[str, set[str]] = {}
        for site in self.sites:
            for name in (site.name, *site.names.get("transformer_lens", ())):
                found.setdefault(name.rpartition(".")[2].removeprefix("hook_"), set()).add(site.name)
        short = {name: self.by_name[sites.pop()] for name, sites in found.items() if len(sites) == 1}
        return short | {alias: short[name] for alias, name in _ALIASES.items() if name in short}

    def _names(self) -> dict[str, Site]:
        """Every name in every dialect, `{i}` for the layer, to its site; our own names come first."""
        index = {site.name: site for site in self.sites}
        index |= {site.full_name(None).replace("None", "{i}"): site for site in self.sites}
        for site in self.sites:
            for name in site.names_elsewhere():
                index.setdefault(name, site)
        for name, site in self.short_names.items():
            index.setdefault(name, site)
        return index

    def _why_unknown(self, name: str, key: str, layer: int | None) -> str:
        """What is wrong with a name that no site has: it is a weight, or another program's, or misspelt."""
        if _SCALE.search(key):
            norm = "ln_f" if "final" in key else f"h.{layer or 0}.ln_{2 if 'ln2' in key else 1}"
            of_norms = "; the learned scale of a norm: `gpt2np circuits --norms`" if key == "scale" else ""
            return f"{short(name)} is 1 / {norm}.rstd in TransformerLens: take {norm}.rstd{of_norms}"
        if _WEIGHT.search(name):
            shown = "`gpt2np circuits` shows it with --norms, or with --head L.H --weights"
            return f"{short(name)} is a weight, no site: model.weights has it, {shown}"
        return f"no site is called {short(name)}{self._suggestion(name)}"

    def _suggestion(self, name: str) -> str:
        digits = _LAYER.search(name)
        layer = digits[0] if digits else "0"
        block, bare = _IN_A_BLOCK.fullmatch(name.lower()).groups()  # type: ignore[union-attr]
        if (meant := _MEANT.get(bare)) is not None and meant in self.by_name:
            return f"; the nearest is {short(self[meant].full_name(int(layer)) if block else meant)}"
        if name.startswith("h.") and bare in self.short_names:
            return f"; the nearest is {short(self.short_names[bare].full_name(int(layer)))}"
        own = [*self.by_name, *(site.full_name(0) for site in self.sites), *self.short_names, *OF_TOKENS]
        own = [key.replace("h.0.", f"h.{layer}.") for key in own]
        others = [key.replace("{i}", layer) for key in self._index]
        near = nearest(name, others, cutoff=0.95) or nearest(name, own, cutoff=0.7)
        near = near or nearest(name, [*own, *others])
        if near is not None and near in OF_TOKENS:
            return f"; the nearest is trace.{near}, which is no site"
        return f"; the nearest is {short(near)}" if near else "; `gpt2np sites` lists them all"
