"""A made-up architecture: RMSNorm, no biases, grouped heads, windows, no position table.

It is registered like one of the package's own; nothing outside this file knows of it.
"""

import json
from collections import namedtuple
from dataclasses import asdict, dataclass
from types import ModuleType

import numpy as np

from gpt2np import ops, tensorfile
from gpt2np.ops import RMSNorm
from gpt2np.tracing import config_keys, contract, derived, site_rows
from gpt2np.tracing.sites import Site, SiteTable, names_of

AXES = {"head": "n_head", "kv_head": "n_kv_head", "vocab": "vocab_size"}
AXES |= {name: name for name in ("d_head", "n_embd", "d_mlp")}


@dataclass(frozen=True)
class Config:
    n_layer: int = 4
    n_head: int = 4
    n_kv_head: int = 2
    d_head: int = 6  # times n_head is not n_embd
    n_embd: int = 20
    d_mlp: int = 36
    n_positions: int = 64
    vocab_size: int = 300
    window_size: int = 5
    norm_epsilon: float = 1e-5
    activation_function: str = "relu"
    tie_word_embeddings: bool = True
    eos_token_id: int | tuple[int, ...] | None = None

    architecture = property(lambda self: contract.find("made_up"))
    eos_ids = property(lambda self: config_keys.ids_of(self.eos_token_id))
    dims = property(lambda self: {axis: getattr(self, field) for axis, field in AXES.items()})
    n_parameters = property(lambda self: sum(self.parameters_by_component().values()))

    def window(self, layer):
        return self.window_size if layer % 2 else None

    def attention_scale(self, layer):
        return 1.0

    def parameters_by_component(self):
        counts = {"token embedding": self.vocab_size * self.n_embd, "blocks": self.n_embd}
        counts["blocks"] += sum(int(np.prod(s)) for name, s in shapes(self).items() if "." in name)
        return counts

    def to_dict(self):
        return {"model_type": "made_up"} | asdict(self)

    @classmethod
    def parse(cls, values, where="config"):
        return config_keys.parse(values, where, cls, config_keys.Keys(optional=frozenset({"eos_token_id"})))


Attention = namedtuple("Attention", "q_proj k_proj v_proj")
Parameters = namedtuple("Parameters", "table h ln_f")


class Block(namedtuple("Block", "ln_1 q k v o ln_2 up down")):  # matrices [n_in, n_out]
    attn = property(lambda self: Attention(self.q, self.k, self.v))


def shapes(c):
    d, heads, groups = c.n_embd, c.n_head * c.d_head, c.n_kv_head * c.d_head
    block = {"ln_1": (d,), "q": (heads, d), "k": (groups, d), "v": (groups, d), "o": (d, heads)}
    block |= {"ln_2": (d,), "up": (c.d_mlp, d), "down": (d, c.d_mlp)}
    found = {f"blocks.{i}.{name}": shape for i in range(c.n_layer) for name, shape in block.items()}
    return {"table": (c.vocab_size, d)} | found | {"norm": (d,)}


def parameters(weights, c):
    def read(name):
        array = weights[name]
        return RMSNorm(array, c.norm_epsilon) if array.ndim == 1 else array.T

    blocks = [Block(*(read(f"blocks.{i}.{name}") for name in Block._fields)) for i in range(c.n_layer)]
    return Parameters(weights["table"], tuple(blocks), read("norm"))


def forward(p, cfg, step):
    first, x = step.start or (0, embed(p, cfg, step))
    for layer in range(first, cfg.n_layer):
        if layer == step.stop_at_layer:
            return x
        x = block(x, p.h[layer], cfg.window(layer), step.block(layer))
    return x if cfg.n_layer == step.stop_at_layer else unembed(x, p, cfg, step)


def embed(p, cfg, step):
    return step("embed", ops.lookup, step.token_ids, p.table)


def block(x, p, window, step):
    a, attn, mlp = step("ln_1", ops.rms_norm, x, p.ln_1), step.at("attn"), step.at("mlp")
    q, k, v = attn("q", ops.project, a, p.q), attn("k", ops.project, a, p.k), attn("v", ops.project, a, p.v)
    attn.each_sequence(attend, q, k, v, window)
    x = step("resid_mid", ops.add, x, attn("out", ops.product, attn.merged("z"), p.o))
    m = mlp("pre", ops.product, step("ln_2", ops.rms_norm, x, p.ln_2), p.up)
    return step("resid_post", ops.add, x, mlp("out", ops.product, mlp("post", ops.relu, m), p.down))


def attend(q, k, v, window, seq):
    q, k, v = seq.own("q", q), seq.all("k", k), seq.all("v", v)
    pattern = seq.step("pattern", ops.softmax, seq.step("scores", ops.dot_scores, q, k, window))
    seq.step("z", ops.mix, pattern, v)


def unembed(x, p, cfg, step):
    return step("logits", ops.unembedding, step.predicting(step("ln_f", ops.rms_norm, x, p.ln_f)), p.table)


GROUPED, WIDE, TL = "pos kv_head d_head", "pos n_embd", "blocks.{i}.ln%d.hook_normalized"
SITES = SiteTable(
    [
        Site("embed", WIDE, "The token's row of the table.", names_of(hf="model.embed"), layered=False),
        site_rows.resid_pre(),
        *site_rows.rms_norm_rows("ln_1", "resid_pre", TL % 1),
        Site("ln_1", WIDE, "What attention reads.", names_of(hf="model.blocks.{i}.ln_1")),
        *(site_rows.query(), site_rows.key(GROUPED), site_rows.value(GROUPED)),
        site_rows.scores("Dot products, not scaled; -inf where the query does not look."),
        *(site_rows.pattern(), site_rows.z(), site_rows.heads("Each head's result times its rows of o.")),
        site_rows.attention_out("What attention writes: all heads' outputs.", hf="model.blocks.{i}.o"),
        site_rows.resid_mid(),
        *site_rows.rms_norm_rows("ln_2", "resid_mid", TL % 2),
        Site("ln_2", WIDE, "What the MLP reads.", names_of(hf="model.blocks.{i}.ln_2")),
        *(site_rows.mlp_pre(), site_rows.mlp_post(), site_rows.mlp_out(), site_rows.resid_post()),
        *site_rows.rms_norm_rows("ln_f", "the last resid_post", "ln_final.hook_normalized", layered=False),
        *(site_rows.ln_f(), site_rows.logits(), *site_rows.of_logits()),
    ]
)
DERIVED = {"resid_pre": derived.RESID_PRE, "attn.heads": derived.head_outputs_by(lambda p, i: p.h[i].o)}
for _norm in ("ln_1", "ln_2", "ln_f"):
    DERIVED |= derived.rms_statistics_of(_norm) | derived.OF_LOGITS
NAMING = contract.CheckpointNaming("model.", "blocks", r"mask$", ("unembedding", "table"), "[n_out, n_in]")
MODULE, ROOMS = ModuleType("made_up_architecture"), (NAMING, shapes, parameters, forward, embed, unembed)
MODULE.ARCHITECTURE = contract.Architecture("made_up", Config, SITES, DERIVED, ("attn.k", "attn.v"), *ROOMS)
contract.register("made_up", MODULE)


def write(folder, seed=0, **numbers):
    """A random checkpoint of this architecture; attention is uneven."""
    config, rng = Config(**numbers), np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    arrays = {f"model.{n}": rng.normal(0, 0.4, s).astype(np.float32) for n, s in shapes(config).items()}
    tensorfile.save_tensors(folder / "model.safetensors", arrays, {})
    return folder
