"""Runs in float32 with a mistake of the catalogue planted in them, every site recorded."""

from dataclasses import dataclass, field

import numpy as np

from gpt2np.reference.mistake_replay import Scope
from gpt2np.reference.mistakes import At
from gpt2np.tracing.packed_pass import Pass
from gpt2np.tracing.packed_pass import Sequence as PackedSequence
from gpt2np.tracing.step import Step


@dataclass
class Dumped:
    """The sites of a run, derived ones computed when they are asked for."""

    model: object
    token_ids: np.ndarray
    found: dict = field(default_factory=dict)

    def __post_init__(self):
        self.config, self.positions = self.model.config, range(len(self.token_ids))

    def parameters(self, needed_for):
        return self.model.parameters

    def __getitem__(self, name):
        if name in self.found:
            return self.found[name]
        table = self.config.architecture
        site, layer = table.sites.resolve(name, None, self.config.n_layer)
        return table.derived[site.name].compute(self, layer)


def plant(model, ids, mistake=None, variant=None, layer=None, scope=None, prefill=None, steps=None):
    """The stored sites of a run, with the mistake made in one layer, in some heads, at some positions.

    It is made in all `steps` that it touches, or in these; in every layer if `layer` is None.
    """
    dumped, table = Dumped(model, np.array(ids)), model.config.architecture.sites
    steps = getattr(mistake, "steps", ()) if steps is None else steps
    prefill = len(ids) if prefill is None else prefill
    scope = scope or Scope()

    def swap(name, op):
        def run(*inputs, out):
            op(*inputs, out=out)
            parts = name.split(".", 2)
            at_layer, kind = (int(parts[1]), parts[2]) if parts[0] == "h" else (None, name)
            if kind in steps and (layer is None or at_layer in (layer, None)):
                at = At(kind, at_layer, model.config, model.parameters, dumped, prefill)
                wrong = out.copy()
                mistake.run(at, variant, *inputs, out=wrong)
                shown = out.copy()
                scope.apply(out, wrong, table[kind], model.config.n_head)
                if kind in mistake.unseen:
                    hidden[name] = shown
            dumped.found[name] = out.copy()

        return run

    hidden = {}
    run = Pass(model.config, model.dtype, [PackedSequence(np.array(ids))], swap=swap)
    with np.errstate(all="ignore"):
        model.config.architecture.forward(model.parameters, model.config, Step(run))
    parts = "attn.q", "attn.k", "attn.v"
    found = {
        name: dumped[name].copy()
        for name, site, _ in table.expand(model.config.n_layer)
        if not site.derived or site.name in parts
    }
    order = [name for name, _, _ in table.expand(model.config.n_layer)]
    return {name: (found | hidden)[name] for name in sorted(found, key=order.index)}
