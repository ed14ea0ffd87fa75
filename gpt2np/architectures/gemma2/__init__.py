"""Gemma-2 (Gemma Team 2024)."""

from gpt2np.architectures.gemma2.config import RELEASED, Config
from gpt2np.architectures.gemma2.forward import embed, forward, unembed
from gpt2np.architectures.gemma2.sites import DERIVED, SITES, holds
from gpt2np.architectures.gemma2.weights import NAMING, parameter_shapes, parameters
from gpt2np.tracing.contract import Architecture, Turns

# How tokenizer_config.json of the models tuned to instructions says it.
TEMPLATE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
    "{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)

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
    matrices={"mlp.pre": ("W_gate",), "mlp.up": ("W_up",)},
    holds=holds,
    cache_drops=True,
    stored="bfloat16",
    keys="rotated",
    begin="<bos>",
    turns=Turns("<start_of_turn>", "<end_of_turn>", {"user": "user", "assistant": "model"}, TEMPLATE),
)
