"""Gemma-2 (Gemma Team 2024)."""

from gpt2np.architectures.gemma2.config import RELEASED, Config
from gpt2np.architectures.gemma2.forward import embed, forward, unembed
from gpt2np.architectures.gemma2.sites import DERIVED, SITES, holds
from gpt2np.architectures.gemma2.weights import NAMING, parameter_shapes, parameters
from gpt2np.tracing.contract import Architecture, Turns

ARCHITECTURE = Architecture(
    model_type="gemma2",
    config=Config,
    sites=SITES,
    derived=DERIVED,
    cache=("attn.k_rot", "attn.v"),
    naming=NAMING,
    shapes=parameter_shapes,
    parameters=parameters,
    forward=forward,
    embed=embed,
    unembed=unembed,
    released=RELEASED,
    holds=holds,
    keys="rotated",
    begin="<bos>",
    turns=Turns("<start_of_turn>", "<end_of_turn>", {"user": "user", "assistant": "model"}),
)
