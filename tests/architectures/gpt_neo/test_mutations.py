"""Mistakes that others have made with GPT-Neo: each is far from HF's numbers, where it is made first."""

import importlib

import numpy as np
import pytest
from support import needs
from support.differences import relative_error

needs.module("torch", "transformers")

import torch
from support import hf_gpt_neo

import gpt2np
from gpt2np import ops
from gpt2np.architectures.gpt_neo import config
from gpt2np.architectures.gpt_neo.weights import parameters

torch.set_num_threads(1)

IDS = np.random.default_rng(4).integers(0, 61, 21).tolist()
FORWARD = importlib.import_module("gpt2np.architectures.gpt_neo.forward")
WINDOW = config.Config.window


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Folder and truth; the MLP is as wide as the stream, so that every matrix of a block is square."""
    folder = tmp_path_factory.mktemp("hf")
    sizes = {"hidden_size": 30, "num_heads": 5, "window_size": 4, "intermediate_size": 30}
    theirs = hf_gpt_neo.random_model(5, "LGL", **sizes)
    theirs.save_pretrained(folder)
    return folder, hf_gpt_neo.double(theirs, IDS)


def longer(by):
    def window(self, layer):
        right = WINDOW(self, layer)
        return right if right is None else right + by

    return window


def swapped(self, layer):
    return self.window_size if WINDOW(self, layer) is None else None


def scaled(q, k, window, *, out):
    ops.dot_scores(q * q.shape[-1] ** -0.5, k, window, out=out)


def with_bias(x, weight, *, out):
    ops.project(x, weight, out=out)
    out += 0.01


def turned(*names):
    """The parameters with some square matrices as they are stored, not turned round."""

    def mutated(weights, cfg):
        found = {n: np.asarray(w).T if any(name in n for name in names) else w for n, w in weights.items()}
        return parameters(found, cfg)

    return mutated


MUTATIONS = {
    "window one more": (config.Config, "window", longer(1), "h.0.attn.scores"),
    "window one less": (config.Config, "window", longer(-1), "h.0.attn.scores"),
    "no window": (config.Config, "window", lambda self, layer: None, "h.0.attn.scores"),
    "kinds swapped": (config.Config, "window", swapped, "h.0.attn.scores"),
    "kinds counted from 1": (config.Config, "window", lambda s, i: WINDOW(s, (i + 1) % 3), "h.0.attn.scores"),
    "scores scaled": (FORWARD, "dot_scores", scaled, "h.0.attn.scores"),
    "a bias": (FORWARD, "project", with_bias, "h.0.attn.q"),
    "q, k, v not turned": (None, "", turned("q_proj", "k_proj", "v_proj"), "h.0.attn.q"),
    "v not turned": (None, "", turned("v_proj"), "h.0.attn.v"),
    "out_proj not turned": (None, "", turned("out_proj.weight"), "h.0.attn.out"),
    "MLP not turned": (None, "", turned("c_fc.weight", "c_proj.weight"), "h.0.mlp.pre"),
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
    wrong = [n for n in trace.names() if relative_error(trace[n], truth[n]) > 1e-4]
    assert wrong[0] == site
    assert relative_error(trace["logits"], truth["logits"]) > 1e-3


def test_without_one_nothing_is(pair):
    folder, truth = pair
    trace = gpt2np.load(folder, dtype="float64").trace(IDS)
    assert max(relative_error(trace[name], truth[name]) for name in trace.names()) < 1e-12
