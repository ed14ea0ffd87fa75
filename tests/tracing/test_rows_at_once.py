"""One new token each of several texts: which of them are attended to at once, and that it changes nothing."""

import numpy as np
import pytest
from support import gemma2_checkpoint, gpt_neo_checkpoint
from support.random_model import random_model

import gpt2np
from gpt2np import threads
from gpt2np.architectures.gpt2.config import Config
from gpt2np.tracing import rows_at_once as module
from gpt2np.tracing.cache import ALIKE, caches
from gpt2np.tracing.packed_pass import Pass
from gpt2np.tracing.rows_at_once import rows_at_once

CONFIG = Config(vocab_size=60, n_positions=256, n_embd=8, n_layer=2, n_head=2)
FAR = ALIKE + 60
WRITTEN = {"gpt_neo": gpt_neo_checkpoint, "gemma2": gemma2_checkpoint}


def runs_of(found, pasts):
    return [(run.texts.start, run.texts.stop, run.n_key) for run in rows_at_once(found, pasts)[0]]


def test_neighbours_of_about_one_length_are_attended_to_at_once():
    found = caches(CONFIG, [20, 22, 21, FAR, FAR + 1, 20], "float32")
    assert runs_of(found, [10, 12, 11, FAR - 10, FAR - 9, 10]) == [
        (0, 3, 13),
        (3, 5, FAR - 8),
        (5, 6, 11),
    ]


def test_a_text_that_has_ended_parts_its_neighbours():
    found = caches(CONFIG, [20] * 5, "float32")
    del found[2]
    assert runs_of(found, [9] * 4) == [(0, 2, 10), (2, 4, 10)]


def test_a_text_that_is_far_ahead_is_by_itself():
    found = caches(CONFIG, [200] * 3, "float32")
    assert runs_of(found, [9, 10 + ALIKE, 9]) == [(0, 1, 10), (1, 2, 11 + ALIKE), (2, 3, 10)]


def test_a_text_reads_the_keys_and_values_that_it_stored():
    found = caches(CONFIG, [5, 7, 6], "float32")
    (run,), _ = rows_at_once(found, [2, 4, 3])
    rows = np.arange(3 * 24, dtype=np.float32).reshape(3, 24)  # of queries, keys and values
    run.store("h.1.attn.qkv", rows)
    for i, (cache, past) in enumerate(zip(found, [2, 4, 3], strict=True)):
        for name, values in (("k", rows[i, 8:16]), ("v", rows[i, 16:])):
            full_name = f"h.1.attn.{name}"
            assert cache.so_far(full_name, past + 1)[past].tolist() == values.reshape(2, 4).tolist()
            assert run.so_far(full_name)[i, past].tolist() == values.reshape(2, 4).tolist()
        assert not cache.so_far("h.0.attn.k", past + 1).any()
    assert run.unseen[:, 0, 0].tolist() == [[False] * n + [True] * (5 - n) for n in (3, 5, 4)]


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neo", "gemma2"])
@pytest.mark.parametrize("shared", [False, True])
def test_they_are_what_each_is_alone(monkeypatch, shared, kind, tmp_path):
    if shared:  # by two threads of a pass, as keys and values of long pasts are
        monkeypatch.setattr(module, "SHARE_BYTES", 0)
        monkeypatch.setattr(threads, "has_small_kernels", lambda: True)
        monkeypatch.setattr(gpt2np.model, "is_small", lambda config: False)
    n_threads = 2 if shared else None
    if kind == "gpt2":
        model = gpt2np.Model(random_model(n_positions=256).checkpoint, "float64", threads=n_threads)
    else:
        folder = WRITTEN[kind].write(tmp_path, max_position_embeddings=256)
        model = gpt2np.load(folder, dtype="float64", threads=n_threads)
    seen = []
    before = Pass.rows_at_once

    def spy(self):
        runs, in_threads = before(self)
        seen.append(([run.n for run in runs], in_threads))
        return runs, in_threads

    monkeypatch.setattr(Pass, "rows_at_once", spy)
    prompts = [[(3 * i + j) % 60 for j in range(n)] for i, n in enumerate((5, 1, 9, FAR, FAR + 3, 7))]
    options = {"max_new_tokens": 6, "eos": None, "keep": ["attn.*", "logits"]}
    together = model.generate(prompts, **options).finish()
    for prompt, found in zip(prompts, together, strict=True):
        alone = model.generate(prompt, **options).finish()
        assert found.token_ids == alone.token_ids
        for name in found.trace.names():
            np.testing.assert_allclose(found.trace[name], alone.trace[name], rtol=1e-9, atol=1e-12)
    assert set(map(str, seen)) == {str(([3, 2, 1], shared))}
