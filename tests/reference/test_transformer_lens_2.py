"""Caches of TransformerLens 2.18.0, as it wrote them: `support/made_by_transformer_lens_2.18/make.py`."""

from pathlib import Path

import numpy as np
import pytest

import gpt2np
from gpt2np.reference.comparison import compare

FOLDER = Path(__file__).parents[1] / "support/made_by_transformer_lens_2.18"


@pytest.fixture(scope="module")
def model():
    return gpt2np.load(FOLDER)


def cache(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def test_without_processing_it_is_within_noise(model):
    """`hook_normalized` is after weight and bias there; in version 3 and later it is before them."""
    found = compare(FOLDER / "no_processing.npz", model)
    assert (found.verdict, found.mistake, found.refused) == ("within-noise", None, ())
    assert len(found.sites) >= 39


def test_its_default_is_recognised_and_no_mistake(model):
    """Norms folded, what is written centred: other numbers, and the same probabilities."""
    found = compare(FOLDER / "default.npz", model)
    assert found.mistake is None
    assert "TransformerLens" in str(found)
    assert "from_pretrained_no_processing" in " ".join(str(found).split())


@pytest.mark.parametrize("name", ["logits", "unembed.hook_out"])
def test_centred_logits_differ_by_a_constant_a_row(model, name):
    dump = cache("default")
    found = compare({name: dump["logits"]}, model, dump["token_ids"].tolist())
    assert found.mistake is None
    assert "constant" in str(found)


@pytest.mark.parametrize("site", ["attn.hook_pattern", "mlp.hook_post", "attn.hook_q"])
def test_what_processing_leaves_alone_is_within_noise(model, site):
    dump = cache("default")
    found = compare({f"blocks.1.{site}": dump[f"blocks.1.{site}"]}, model, dump["token_ids"].tolist())
    assert found.verdict == "within-noise"


def test_a_mistake_in_such_a_cache_is_named(model):
    dump = cache("no_processing")
    pre = dump["blocks.1.mlp.hook_pre"]
    dump["blocks.1.mlp.hook_post"] = np.maximum(pre, 0)
    kept = [name for name in dump if name.startswith(("hook_", "blocks.0")) or name == "token_ids"]
    kept += [name for name in dump if name.startswith("blocks.1") and not name.endswith("out")]
    found = compare({name: dump[name] for name in kept if "resid_post" not in name}, model)
    assert (found.site, found.mistake) == ("h.1.mlp.post", "activation-relu")
