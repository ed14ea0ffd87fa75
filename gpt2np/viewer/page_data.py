"""What of a run goes into its page: the facts as JSON, the numbers as arrays of the level's layout.

Every number is one that the trace holds or that `gpt2np.analysis` computes from it; the page only draws them.
A part whose sites were not kept is left out, and the page says why.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from gpt2np.analysis import heads, neurons, residual_stream, statistics
from gpt2np.analysis import lens as logit_lens
from gpt2np.analysis.two_prompts import alignment
from gpt2np.errors import Gpt2npError, InputError, TraceError
from gpt2np.generation.generated import Generated
from gpt2np.ops import Array
from gpt2np.tracing.derived import top_k_tokens
from gpt2np.tracing.trace import Trace
from gpt2np.viewer import circuit_facts
from gpt2np.viewer import detail_levels as levels
from gpt2np.viewer.attention_and_predictions import attention_arrays, chance_arrays, next_arrays
from gpt2np.viewer.commentary import notes
from gpt2np.viewer.detail_levels import Detail, Sizes
from gpt2np.viewer.lens_and_contributions import lens_arrays, near_arrays, push_arrays
from gpt2np.viewer.matrix_maps import matrix_facts
from gpt2np.viewer.model_parts import part_table
from gpt2np.viewer.other_run import columns_of, other_facts, other_parts
from gpt2np.viewer.packing import factor_of, strip_of
from gpt2np.viewer.page_facts import LONGEST, as_written, generation_facts, model_facts


class Data:
    """The facts and arrays of one page, at one level of detail."""

    def __init__(
        self, trace: Trace, run: Trace | Generated, detail: Detail, other: Trace | None = None
    ) -> None:
        """With an `other` run it is held beside the first."""
        self.trace, self.detail, self.other = trace, detail, other
        self.sizes = sizes_of(trace, other)
        self.layout = levels.layout(self.sizes, detail)
        self.arrays: dict[str, Array] = {}
        self.missing: dict[str, str] = {}
        self.ids: set[int] = set(trace.token_ids)
        self.facts: dict[str, Any] = {
            "model": model_facts(trace, self.sizes),
            "prompt": trace.prompt,
            "tokens": [token[:LONGEST] for token in trace.tokens],
            "ids": trace.token_ids,
            **as_written(trace),
            "parts": part_table(trace, self.sizes),
            "generation": None,
        }
        self._collect(run)
        self.state()

    def state(self) -> None:
        """Say what is missing, at which level of detail all is, and how the tokens read that are named."""
        self.facts |= {
            "missing": self.missing,
            "detail": self._stated(),
            "vocabulary": {str(i): self.trace.token(i)[:LONGEST] for i in sorted(self.ids)},
        }

    def _collect(self, run: Trace | Generated) -> None:
        trace, d = self.trace, self.detail
        self._vectors()
        self._part("attention", self._attention)
        self._part("next", self._next)
        self._part("residual", self._residual)
        self._part("generation", lambda: self.facts.update(generation=generation_facts(run, self.ids)))
        if d.compact:
            return
        recent = list(range(len(trace.token_ids)))[-d.recent_lens :]
        self._part("lens", lambda: self.add(lens_arrays(trace, recent, d.lens, d.followed), ":id"))
        self._part("push", lambda: self._push(recent))
        self._part("mlp", self._mlp)
        self._part("neurons", self._neurons)
        self._part("heads", self._heads)
        self._part("scores", self._scores)
        self._part("weights", self._weights)
        if "next:id" in self.arrays:  # of whose tokens the rows are
            self._part("near", lambda: self.add(near_arrays(trace, recent, self.arrays["next:id"])))
        if self.other is not None:
            self._against(self.other)

    def _part(self, name: str, collect: Callable[[], Any]) -> None:
        """Collect a part; where the trace lacks what it needs, note what."""
        try:
            collect()
        except Gpt2npError as error:
            self.missing[name] = str(error)

    def add(self, arrays: dict[str, Array], ids: str = "") -> None:
        """Take arrays in, in the kind and shape of the layout; where a name ends in `ids` they are tokens."""
        for name, array in arrays.items():
            kind, shape = self.layout[name]
            if array.shape != shape:
                raise InputError(f"{name}: {array.shape} where the layout has {shape}")
            self.arrays[name] = array.astype(
                {"f2": "<f2", "f4": "<f4"}.get(kind, array.dtype.newbyteorder("<"))
            )
            if ids and name.endswith(ids):
                self.ids |= set(np.unique(array).tolist())

    # -- the map ----------------------------------------------------------------------------------

    def _vectors(self) -> None:
        d, run, drawn = self.detail, range(self.sizes.layers), self.sizes.drawn
        for name in drawn.outside:
            self._part(f"vector {name}", lambda name=name: self._strips(name, [name], d.cells))  # type: ignore[misc]
        of_layers = [(name, d.cells) for name in drawn.layered] + [(n, d.mlp_cells) for n in drawn.neurons]
        of_layers += [(name, d.head_cells) for name in drawn.heads]
        if d.output_cells:
            of_layers.append((levels.OUTPUTS, d.output_cells))
        else:
            self.missing[f"vector {levels.OUTPUTS}"] = "left out to keep the page small"
        for name, cells in of_layers:
            sites = [f"h.{i}.{name}" for i in run]
            self._part(
                f"vector {name}",
                lambda name=name, sites=sites, cells=cells: self._strips(name, sites, cells),  # type: ignore[misc]
            )

    def _strips(self, name: str, sites: list[str], cells: int) -> None:
        """The vectors of one site, of all layers: cells, scale and statistics."""
        per_head = name in self.sizes.drawn.heads or name == levels.OUTPUTS
        found = [self._strip(self.trace[site][-self.detail.recent :], cells, per_head) for site in sites]
        for key in found[0] if found else ():
            array = np.stack([each[key] for each in found])
            self.add({name + key: array[0] if name in self.sizes.drawn.outside else array})

    def _strip(self, x: Array, cells: int, per_head: bool) -> dict[str, Array]:
        wide = x.astype(np.float64)
        norm = np.sqrt((wide * wide).sum(axis=-1))
        stats = [norm] if per_head else [norm, x.min(axis=-1), x.max(axis=-1)]
        return strip_of(x, cells, self.detail.floats) | {":stats": np.stack(stats, axis=-1)}

    # -- attention --------------------------------------------------------------------------------

    def _attention(self) -> None:
        self.add(attention_arrays(self.trace, self.sizes.layers, self.detail, self.detail.scores))

    def _scores(self) -> None:
        """What kind of head each is: in this text, and on random tokens said twice."""
        trace, found = self.trace, self.facts
        of_text = {"entropy": statistics.entropy, "distance": statistics.distance}
        found["head statistics"] = {name: of(trace).array[0].tolist() for name, of in of_text.items()}
        scores: list[Any] = []
        if self.sizes.tokens > 1:
            scores.append(("in this text", heads.attention_scores(trace)))
        if trace.model is not None:
            n = min(16, trace.config.n_positions // 2)
            if n > 1:
                scores.append((f"on {n} random tokens said twice", heads.head_scores(trace.model, n, 2)))
        found["head scores"] = [
            {"name": name, "where": where, "values": scored.array[i].tolist()}
            for where, scored in scores
            for i, name in enumerate(scored.labels["score"])
        ]

    # -- predictions and the residual stream ------------------------------------------------------

    def _next(self) -> None:
        self.add(next_arrays(self.trace, self.sizes.tops), ":id")
        self.add(chance_arrays(self.trace))

    def _against(self, other: Trace) -> None:
        """What the page has of a second run."""
        columns = columns_of(self.trace, other)
        first = len(columns) - min(len(columns), self.detail.recent_lens)
        ends = columns != alignment(self.trace, other)
        self.facts["against"] = other_facts(other, columns, ends, first)
        self.ids |= set(other.token_ids)
        for name, collect in other_parts(self.trace, other, columns, self.sizes, self.detail, first):
            self._part(name, lambda collect=collect: self.add(collect(), ":id"))  # type: ignore[misc]
        if "apart:pair" in self.arrays:
            self.ids |= set(np.unique(self.arrays["apart:pair"]).tolist())

    def _residual(self) -> None:
        trace, layers = self.trace, range(self.sizes.layers)
        points = ["embed", *(f"h.{i}.{at}" for i in layers for at in ("resid_mid", "resid_post"))]
        x = np.stack([trace[name] for name in points]).astype(np.float64)  # [point, pos, n_embd]
        norms = np.sqrt((x * x).sum(axis=-1))
        cosines = (x * x[-1]).sum(axis=-1) / np.maximum(norms * norms[-1], np.finfo(float).tiny)
        self.add({"resid:norm": norms, "resid:cosine": cosines})
        if not self.detail.compact:
            ratios = residual_stream.magnitude_ratios(trace).array
            largest = np.argsort(-ratios, axis=-1, kind="stable")[:, : levels.OUTLIERS]
            self.add(
                {
                    "resid:dimension": _padded(largest, levels.OUTLIERS).astype(np.uint32),
                    "resid:ratio": _padded(np.take_along_axis(ratios, largest, -1), levels.OUTLIERS),
                    "resid:kurtosis": residual_stream.basis_alignment(trace).array[:, 0],
                }
            )

    def _push(self, recent: list[int]) -> None:
        found, labels = push_arrays(self.trace, recent, self.detail.targets)
        self.add(found, ":id")
        self.facts["components"] = labels

    # -- the MLP ----------------------------------------------------------------------------------

    def _mlp(self) -> None:
        trace, d = self.trace, self.detail
        k = self.layout["neuron:id"][1][-1]
        ids, pres, posts, acts, bins = [], [], [], [], []
        ends = -levels.REACH, levels.REACH
        for i in range(self.sizes.layers):
            pre, post = (trace[f"h.{i}.mlp.{at}"][-d.recent :] for at in ("pre", "post"))  # [pos, d_mlp]
            best = top_k_tokens(post, k)
            ids.append(best.astype(np.uint32))
            pres.append(np.take_along_axis(pre, best, -1))
            posts.append(np.take_along_axis(post, best, -1))
            if self.sizes.gated:
                acts.append(np.take_along_axis(trace[f"h.{i}.mlp.act"][-d.recent :], best, -1))
            inside = np.clip(np.nan_to_num(pre), *ends)
            bins.append([np.histogram(row, levels.BINS, ends)[0] for row in inside])
        self.add({"neuron:id": np.stack(ids), "neuron:pre": np.stack(pres), "neuron:post": np.stack(posts)})
        self.add(
            {"neuron:bins": np.array(bins, np.uint16)} | ({"neuron:act": np.stack(acts)} if acts else {})
        )
        self.add({"sparsity": neurons.sparsity(trace).array})

    def _neurons(self) -> None:
        """The most active ones at each position, and what those of the last are for."""
        trace, shape = self.trace, self.layout["active:id"][1]
        first = self.sizes.tokens - shape[0]
        rows = [neurons.most_active(trace, shape[1], pos) for pos in range(first, self.sizes.tokens)]
        names = [[name.split(".") for name in row.labels["neuron"]] for row in rows]
        self.add(
            {
                "active:layer": np.array([[int(layer) for layer, _ in row] for row in names], np.uint16),
                "active:id": np.array([[int(i) for _, i in row] for row in names], np.uint32),
                "active:post": np.stack([row.array for row in rows]),
            }
        )
        self.facts["neurons"] = list(self._explained(names[-1]))

    def _explained(self, names: list[list[str]]) -> Iterator[dict[str, Any]]:
        which, told = [(int(layer), int(i)) for layer, i in names], list[neurons.Neuron]()
        if self.trace.model is not None and self.trace.model.usable_tokenizer is not None:
            with contextlib.suppress(InputError):  # a gated neuron reads and writes no single direction
                told = neurons.several_neurons(self.trace.model, which, 6)
        for (layer, i), neuron in itertools.zip_longest(which, told):
            facts: dict[str, Any] = {"layer": layer, "id": i}
            facts["active"] = neurons.neuron_activations(self.trace, layer, i).array.tolist()
            for kind in ("excited_by", "raises", "lowers") if neuron else ():
                facts[kind] = [near.token[:LONGEST] for near in getattr(neuron, kind)]
            yield facts

    def _heads(self) -> None:
        """What each head raises and lowers at the last position."""
        told = logit_lens.attention_lens(self.trace, k=5)
        found = {"raised": (told.raised_ids, told.raised), "lowered": (told.lowered_ids, told.lowered)}
        for name, (ids, values) in found.items():
            self.ids |= set(np.unique(ids.array).tolist())
            self.facts[f"heads {name}"] = {"ids": ids.array.tolist(), "values": values.array.tolist()}

    def _weights(self) -> None:
        """What is known of the parts, and what the weights alone say; each by itself, for some need more."""
        trace, facts = self.trace, self.facts
        facts["commentary"] = [note._asdict() for note in notes(trace.config)]
        facts["parameters"] = circuit_facts.parameter_facts(trace.config)
        if trace.model is None:
            raise TraceError("the trace was opened without its model")
        facts["matrices"] = matrix_facts(trace.model)
        facts["norms"] = circuit_facts.norm_facts(trace, min(self.detail.cells, 128))
        asked: dict[str, Callable[[Trace], Any]] = {
            "circuits": circuit_facts.head_circuits,
            "composition": circuit_facts.composition_facts,
            "memory": circuit_facts.memory_facts,
            "spread": lambda trace: circuit_facts.spread_facts(trace, self.detail.recent),
        }
        for name, of in asked.items():
            with contextlib.suppress(
                Gpt2npError
            ):  # some need sites that were not kept, or an attention like GPT-2's
                facts[name] = of(trace)
        self.ids |= set(facts.get("circuits", {}).get("ids", ()))

    # -- what is stated ---------------------------------------------------------------------------

    def _stated(self) -> dict[str, Any]:
        """The level, as the page tells it."""
        d, c = self.detail, self.trace.config
        shown = min(self.sizes.tokens, d.recent)
        factors = {
            "n_embd": factor_of(c.n_embd, d.cells),
            "d_head": factor_of(c.d_head, d.head_cells),
            "d_mlp": factor_of(c.d_mlp, d.mlp_cells),
            "outputs": factor_of(c.n_embd, d.output_cells) if d.output_cells else 0,
            "vocab": factor_of(c.vocab_size, d.cells),
        }
        return {
            "budget": levels.COMPACT if d.compact else levels.budget(self.sizes.longest),
            "factors": factors,
            "floats": d.floats,
            "attention": d.attention,
            "top": d.top,
            "scores": "scores" in self.arrays,
            "first": self.sizes.tokens - shown,
            "firstLens": self.sizes.tokens - min(self.sizes.tokens, d.recent_lens),
            "compact": d.compact,
            "reach": levels.REACH,
        }


def sizes_of(trace: Trace, other: Trace | None = None) -> Sizes:
    """What the size of a page follows from; with an `other` run beside the first."""
    n_layer, stop = trace.config.n_layer, trace.plan.stop_at_layer
    sizes = Sizes(trace.config, len(trace.token_ids), n_layer if stop is None else stop)
    if other is None:
        return sizes
    return replace(sizes, other=len(other.token_ids), columns=len(columns_of(trace, other)))


def checked(run: object) -> Trace:
    """The trace of what shall be shown.

    Raises:
        InputError: it is neither a Trace nor a Generated.
        TraceError: nothing, or only some positions, were kept.
    """
    if not isinstance(run, Trace | Generated):
        raise InputError(f"view shows a Trace or a Generated, not {type(run).__name__}")
    trace = statistics.trace_of(run)
    if not trace.token_ids or sizes_of(trace).layers < 1:
        raise TraceError("view: this trace ran no layer")
    return trace


def _padded(array: Array, n: int) -> Array:
    """Rows of n entries, the last repeated where there are fewer."""
    return np.pad(array, [(0, 0), (0, max(0, n - array.shape[1]))], mode="edge")
