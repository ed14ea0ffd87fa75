"""HF has several names for some activation functions; those of the same function are taken, no others."""

import json

import numpy as np
import pytest
from support import needs
from support import tiny_checkpoint as tiny

import gpt2np
from gpt2np.architectures.gpt2.config import Config
from gpt2np.errors import ConfigError
from gpt2np.ops import ACTIVATIONS
from gpt2np.tracing.config_keys import SAME_ACTIVATION


@pytest.mark.parametrize("name", SAME_ACTIVATION)
def test_the_config_keeps_the_name_of_the_function(name):
    config = Config(activation_function=name)
    assert config.activation_function == SAME_ACTIVATION[name]
    assert config.activation_function in ACTIVATIONS
    assert config.to_dict()["activation_function"] == SAME_ACTIVATION[name]
    assert Config.from_dict({"activation_function": name}) == config


@pytest.mark.needs("transformers")
@pytest.mark.parametrize("name", [*SAME_ACTIVATION, *ACTIVATIONS])
def test_the_run_is_hf_s_in_float64(tmp_path, name):
    torch = needs.imported("torch")
    from transformers import GPT2LMHeadModel

    folder = tiny.write(tmp_path / "model")
    (folder / "config.json").write_text(json.dumps(tiny.CONFIG | {"activation_function": name}))
    theirs = GPT2LMHeadModel.from_pretrained(folder).double().eval()
    with torch.no_grad():
        expected = theirs(torch.tensor([tiny.IDS])).logits[0].numpy()
    found = gpt2np.load(folder, dtype="float64")(tiny.IDS)
    assert np.abs(found - expected).max() <= 1e-10 * max(1.0, np.abs(expected).max())


@pytest.mark.needs("transformers")
def test_no_name_of_hf_s_for_a_function_of_ours_is_missing():
    torch = needs.imported("torch")
    from transformers.activations import ACT2CLS, ACT2FN

    x = torch.linspace(-12, 12, 4801, dtype=torch.float64)
    ours = {name: ACT2FN[name](x) for name in ACTIVATIONS}
    known = {*ACTIVATIONS, *SAME_ACTIVATION}
    for name in ACT2CLS.keys() - known - {"prelu", "xielu"}:
        far = {other: float((ACT2FN[name](x) - y).abs().max()) for other, y in ours.items()}
        assert min(far.values()) > 1e-9, (name, far)


@pytest.mark.parametrize(
    "name", ["quick_gelu", "gelu_10", "mish", "relu2", "linear", "GELU", "", None, 5, ["gelu"]]
)
def test_other_functions_are_refused_by_name(name):
    with pytest.raises(ConfigError, match=r"activation_function .* is not supported"):
        Config(activation_function=name)
