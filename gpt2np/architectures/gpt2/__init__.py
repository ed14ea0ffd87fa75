"""GPT-2 (Radford et al. 2019)."""

from gpt2np.architectures.gpt2.config import RELEASED, Config
from gpt2np.architectures.gpt2.forward import embed, forward, unembed
from gpt2np.architectures.gpt2.sites import DERIVED, SITES
from gpt2np.architectures.gpt2.weights import NAMING, for_one_row, head_matrices, parameter_shapes, parameters
from gpt2np.tracing.contract import Architecture

ARCHITECTURE = Architecture(
    model_type="gpt2",
    config=Config,
    sites=SITES,
    derived=DERIVED,
    cache=("attn.k", "attn.v"),
    naming=NAMING,
    shapes=parameter_shapes,
    parameters=parameters,
    forward=forward,
    embed=lambda p, config, step: embed(p, step),
    unembed=lambda x, p, config, step: unembed(x, p, step),
    attention_bias=lambda p, layer: p.h[layer].attn.c_proj.bias,
    head_matrices=head_matrices,
    one_row=for_one_row,
    released=RELEASED,
    positional=("wpe",),
    matrices={"wpe": ("W_P",), "attn.qkv": ("W_Q", "W_K", "W_V")},
    keys=None,
)
