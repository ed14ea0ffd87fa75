"""Mistakes that others have made with Gemma-2: each is far from HF's numbers, where it is made first."""

import importlib

import numpy as np
import pytest
from support import needs
from support.differences import relative_error

needs.module("torch", "transformers")

import torch
from support import hf_gemma2

import gpt2np
from gpt2np import ops
from gpt2np.architectures.gemma2 import config, weights
from gpt2np.ops import RMSNorm
from gpt2np.ops.caps import bend

torch.set_num_threads(1)

IDS = np.random.default_rng(4).integers(0, 61, 21).tolist()
FORWARD = importlib.import_module("gpt2np.architectures.gemma2.forward")
WINDOW = config.Config.window


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Folder and truth; heads are as wide together as the stream, so that square matrices are there too."""
    folder = tmp_path_factory.mktemp("hf")
    theirs = hf_gemma2.random_model(
        5, "SFS", hidden_size=36, num_attention_heads=6, num_key_value_heads=3, head_dim=6, sliding_window=4,
        intermediate_size=36, query_pre_attn_scalar=13, attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0, rope_theta=100.0,
    )  # fmt: skip
    theirs.save_pretrained(folder)
    return folder, hf_gemma2.double(theirs, IDS)


def longer(by):
    def window(self, layer):
        right = WINDOW(self, layer)
        return right if right is None else right + by

    return window


def swapped(self, layer):
    return self.sliding_window if WINDOW(self, layer) is None else None


def without_one(mapping, cfg):
    """The parameters with norms as they are stored."""
    p = weights.parameters(mapping, cfg)

    def stored(norm):
        return RMSNorm(norm.weight - 1.0, norm.epsilon)

    norms = ("ln_1", "ln_1_post", "ln_2", "ln_2_post")
    blocks = tuple(b._replace(**{name: stored(getattr(b, name)) for name in norms}) for b in p.h)
    return p._replace(h=blocks, ln_f=stored(p.ln_f))


def gate_and_up_swapped(mapping, cfg):
    p = weights.parameters(mapping, cfg)
    mlps = [b.mlp._replace(gate_proj=b.mlp.up_proj, up_proj=b.mlp.gate_proj) for b in p.h]
    return p._replace(h=tuple(b._replace(mlp=m) for b, m in zip(p.h, mlps, strict=True)))


def turned(*names):
    """The parameters with some square matrices as they are stored, not turned round."""

    def mutated(mapping, cfg):
        found = {n: np.asarray(w).T if any(name in n for name in names) else w for n, w in mapping.items()}
        return weights.parameters(found, cfg)

    return mutated


def scaled_in_the_table_too(mapping, cfg):
    p = weights.parameters(mapping, cfg)
    return p._replace(lm_head=p.lm_head * cfg.embedding_scale)


def norm_behind_the_sum(x, p, cfg, layer, turn, step):
    a = step("ln_1", ops.rms_norm, x, p.ln_1)
    a = FORWARD.attention(a, p.attn, cfg, layer, turn, step.at("attn"))
    normed = np.empty_like(x)
    ops.rms_norm(x + a, p.ln_1_post, out=normed)
    a = step("attn.out", np.subtract, normed, x)
    x = step("resid_mid", ops.add, x, a)
    m = step("ln_2", ops.rms_norm, x, p.ln_2)
    m = step("mlp.out", ops.rms_norm, FORWARD.mlp(m, p.mlp, cfg, step.at("mlp")), p.ln_2_post)
    return step("resid_post", ops.add, x, m)


def capped_behind_the_mask(q, k, scale, cap, window, *, out):
    ops.capped_scores(q, k, scale, None, window, out=out)
    bend(out, cap)  # -inf becomes -cap, and is seen


def scores_not_capped(q, k, scale, cap, window, *, out):
    ops.capped_scores(q, k, scale, None, window, out=out)


def capped_before_the_scale(q, k, scale, cap, window, *, out):
    ops.capped_scores(q, k, 1.0, cap, window, out=out)
    out *= scale


def other_key_heads(q, k, scale, cap, window, *, out):
    """Query head h takes key head h % G."""
    groups = [h % k.shape[1] for h in range(q.shape[1])]
    ops.capped_scores(q, k[:, groups], scale, cap, window, out=out)


def other_value_heads(pattern, v, *, out):
    ops.mix(pattern, v[:, [h % v.shape[1] for h in range(len(pattern))]], out=out)


def pairs(x, turn, *, out):
    """Neighbouring numbers turned, not halves."""
    out[..., 0::2] = x[..., 0::2] * turn.cos - x[..., 1::2] * turn.sin
    out[..., 1::2] = x[..., 1::2] * turn.cos + x[..., 0::2] * turn.sin


def backwards(x, turn, *, out):
    ops.rotate(x, ops.Turn(turn.cos, -turn.sin), out=out)


def not_scaled(x, factor, *, out):
    out[...] = x


def gate_not_let_through(a, b, *, out):
    out[...] = b


def logits_not_capped(x, table, cap, *, out):
    ops.unembedding(x, table, out=out)


def frequencies_from_the_second(positions, theta, d_head, dtype):
    frequencies = theta ** (-2.0 * (np.arange(d_head // 2) + 1) / d_head)
    angles = np.asarray(positions)[:, None, None] * frequencies
    return ops.Turn(np.cos(angles), np.sin(angles))


C = config.Config
MUTATIONS = {
    "window one more": (C, "window", longer(1), "h.0.attn.scores"),
    "window one less": (C, "window", longer(-1), "h.0.attn.scores"),
    "no window": (C, "window", lambda self, layer: None, "h.0.attn.scores"),
    "kinds swapped": (C, "window", swapped, "h.0.attn.scores"),
    "scale by head_dim": (C, "attention_scale", lambda self, layer: self.head_dim**-0.5, "h.0.attn.scores"),
    "no 1 +": (None, "", without_one, "h.0.ln_1"),
    "gate and up swapped": (None, "", gate_and_up_swapped, "h.0.mlp.pre"),
    "norm behind the addition": (FORWARD, "block", norm_behind_the_sum, "h.0.attn.out"),
    "cap behind the mask": (FORWARD, "capped_scores", capped_behind_the_mask, "h.0.attn.scores"),
    "scores not capped": (FORWARD, "capped_scores", scores_not_capped, "h.0.attn.scores"),
    "cap before the scale": (FORWARD, "capped_scores", capped_before_the_scale, "h.0.attn.scores"),
    "key head h % G": (FORWARD, "capped_scores", other_key_heads, "h.0.attn.scores"),
    "value head h % G": (FORWARD, "mix", other_value_heads, "h.0.attn.z"),
    "pairs for halves": (FORWARD, "rotate", pairs, "h.0.attn.q_rot"),
    "turned backwards": (FORWARD, "rotate", backwards, "h.0.attn.q_rot"),
    "frequencies from the second": (FORWARD, "turn_of", frequencies_from_the_second, "h.0.attn.q_rot"),
    "root of d missing": (FORWARD, "scaled", not_scaled, "embed"),
    "gate ignored": (FORWARD, "times", gate_not_let_through, "h.0.mlp.post"),
    "table scaled too": (None, "", scaled_in_the_table_too, "logits"),
    "logits not capped": (FORWARD, "capped_unembedding", logits_not_capped, "logits"),
    "q not turned": (None, "", turned("q_proj"), "h.0.attn.q"),
    "o not turned": (None, "", turned("o_proj"), "h.0.attn.proj"),
    "MLP not turned": (None, "", turned("gate_proj", "up_proj", "down_proj"), "h.0.mlp.pre"),
    "another activation": (C, "activation_function", property(lambda self: "gelu"), "h.0.mlp.act"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_is_seen(pair, monkeypatch, name):
    folder, truth = pair
    where, attribute, mutant, site = MUTATIONS[name]
    if where is None:
        architecture = gpt2np.read_config(folder).architecture
        monkeypatch.setitem(architecture.__dict__, "parameters", mutant)
    else:
        monkeypatch.setattr(where, attribute, mutant)
    trace = gpt2np.load(folder, dtype="float64").trace(IDS)
    wrong = [n for n in trace.names() if not relative_error(trace[n], truth[n]) <= 1e-5]
    assert wrong[0] == site
    assert relative_error(trace["logits"], truth["logits"]) > 1e-5


def test_without_one_nothing_is(pair):
    folder, truth = pair
    trace = gpt2np.load(folder, dtype="float64").trace(IDS)
    assert max(relative_error(trace[name], truth[name]) for name in trace.names()) < 1e-12
