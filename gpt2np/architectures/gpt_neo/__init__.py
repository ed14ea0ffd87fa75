"""GPT-Neo (Black et al. 2021): GPT-2 with a window in its local layers."""

from gpt2np.architectures.gpt_neo.config import RELEASED, Config
from gpt2np.architectures.gpt_neo.forward import embed, forward, unembed
from gpt2np.architectures.gpt_neo.sites import DERIVED, SITES
from gpt2np.architectures.gpt_neo.weights import NAMING, head_matrices, parameter_shapes, parameters
from gpt2np.tracing.contract import Architecture

ARCHITECTURE = Architecture(
    model_type="gpt_neo",
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
    attention_bias=lambda p, layer: p.h[layer].attn.out_proj.bias,
    head_matrices=head_matrices,
    released=RELEASED,
    positional=("wpe",),
    matrices={"wpe": ("W_P",)},
)
