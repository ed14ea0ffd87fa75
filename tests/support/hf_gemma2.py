"""HF's Gemma-2 as the oracle: random checkpoints, and every site captured with hooks. Needs torch."""

import math

import numpy as np
import torch
from support.true_double import true_double
from transformers import Gemma2Config, Gemma2ForCausalLM
from transformers.models.gemma2 import modeling_gemma2

BASE = {
    "vocab_size": 61, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
HALF = (torch.bfloat16, torch.float16)  # of which NumPy has not the one
KINDS = {"F": "full_attention", "S": "sliding_attention"}


def random_model(seed: int, kinds: str, **config) -> Gemma2ForCausalLM:
    """A Gemma-2 in which every parameter is random, attention visibly uneven; `kinds` is like "SFS"."""
    torch.manual_seed(seed)
    theta = config.pop("rope_theta", 10000.0)
    settings = BASE | {"layer_types": [KINDS[kind] for kind in kinds], "num_hidden_layers": len(kinds)}
    settings["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    model = Gemma2ForCausalLM(Gemma2Config(attn_implementation="eager", **settings | config)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("norm.weight"):
                p.normal_(0.0, 0.3)
            elif "q_proj" in name or "k_proj" in name:
                p.normal_(0.0, 1.6 / math.sqrt(p.shape[1]))
            elif name.startswith(("model.embed_tokens", "lm_head")):
                p.normal_(0.0, 0.5)
            else:
                p.normal_(0.0, 1.0 / math.sqrt(p.shape[1]))
    return model


def doubled(model: Gemma2ForCausalLM) -> Gemma2ForCausalLM:
    """The model with weights and constants in float64; `double()` alone keeps float32's frequencies."""
    model = model.double()
    rotary = model.model.rotary_emb
    with true_double(modeling_gemma2):
        frequencies, _ = rotary.compute_default_rope_parameters(model.config)
    rotary.inv_freq = rotary.original_inv_freq = frequencies
    model.model.embed_tokens.embed_scale.fill_(model.config.hidden_size**0.5)
    return model


def double(model: Gemma2ForCausalLM, ids: list[int]) -> dict[str, np.ndarray]:
    """Every site in real float64: HF's own `double()` still computes norms, angles and softmax in float32."""
    model = doubled(model)
    with true_double(modeling_gemma2):
        return capture(model, ids)


# Each stored site and the module whose output, or input (with a *), it is.
TAPS = {
    "ln_1": "input_layernorm",
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.z": "*self_attn.o_proj",
    "attn.proj": "self_attn",
    "attn.out": "post_attention_layernorm",
    "resid_pre": "*input_layernorm",
    "resid_mid": "*pre_feedforward_layernorm",
    "ln_2": "pre_feedforward_layernorm",
    "mlp.pre": "mlp.gate_proj",
    "mlp.act": "mlp.act_fn",
    "mlp.up": "mlp.up_proj",
    "mlp.post": "*mlp.down_proj",
    "mlp.proj": "mlp",
    "mlp.out": "post_feedforward_layernorm",
    "resid_post": "",
}


def capture(model: Gemma2ForCausalLM, ids: list[int]) -> dict[str, np.ndarray]:
    """Every stored and derived site under our names, in the model's precision; halves stay tensors."""
    cfg, found, hooks = model.config, {}, []
    n, wide = len(ids), cfg.head_dim

    def keep(name, module, of_input=False):
        def hook(_, inputs, output):
            value = inputs[0] if of_input else output[0] if isinstance(output, tuple) else output
            found[name] = value.detach()[0]

        hooks.append(module.register_forward_hook(hook))

    def keep_rotated(apply):
        def kept(q, k, cos, sin, *others, **named):
            q, k = apply(q, k, cos, sin, *others, **named)
            layer = sum(name.endswith("q_rot") for name in found)
            found[f"h.{layer}.attn.q_rot"] = q[0].transpose(0, 1).detach()
            found[f"h.{layer}.attn.k_rot"] = k[0].transpose(0, 1).detach()
            return q, k

        return kept

    keep("embed", model.model.embed_tokens)
    for i, block in enumerate(model.model.layers):
        for site, tap in TAPS.items():
            keep(f"h.{i}.{site}", block.get_submodule(tap.lstrip("*")), tap.startswith("*"))
    keep("ln_f", model.model.norm)
    keep("logits_raw", model.lm_head)
    apply = modeling_gemma2.apply_rotary_pos_emb
    modeling_gemma2.apply_rotary_pos_emb = keep_rotated(apply)
    try:
        with torch.no_grad():
            out = model(torch.tensor([ids]), output_attentions=True)
    finally:
        modeling_gemma2.apply_rotary_pos_emb = apply
        for hook in hooks:
            hook.remove()
    found["wte"] = model.model.embed_tokens.weight.detach()[torch.tensor(ids)]
    found["logits"], found["probabilities"] = out.logits[0], out.logits[0].softmax(-1)
    targets = torch.tensor(ids[1:], dtype=torch.long)
    losses = torch.nn.functional.cross_entropy(out.logits[0, :-1], targets, reduction="none")
    found["loss"] = torch.cat([losses, losses.new_full((1,), math.nan)])
    found["top_k_tokens"] = out.logits[0].topk(min(10, cfg.vocab_size)).indices
    at = torch.arange(n)
    for i, block in enumerate(model.model.layers):
        h = f"h.{i}."
        for name in ("q", "k", "v", "z"):
            found[f"{h}attn.{name}"] = found[f"{h}attn.{name}"].reshape(n, -1, wide)
        found[h + "attn.pattern"] = out.attentions[i][0]
        group = cfg.num_attention_heads // cfg.num_key_value_heads
        keys = found[h + "attn.k_rot"].repeat_interleave(group, dim=1)
        raw = torch.einsum("qhd,khd->hqk", found[h + "attn.q_rot"], keys) * cfg.query_pre_attn_scalar**-0.5
        cap, hidden = cfg.attn_logit_softcapping, at[None] > at[:, None]
        if cfg.layer_types[i] == KINDS["S"]:
            hidden = hidden | (at[None] <= at[:, None] - cfg.sliding_window)
        found[h + "attn.scores_raw"] = raw.masked_fill(hidden, -math.inf)
        scores = raw if cap is None else torch.tanh(raw / cap) * cap
        found[h + "attn.scores"] = scores.masked_fill(hidden, -math.inf)
        weight = block.self_attn.o_proj.weight.detach().T.reshape(-1, wide, cfg.hidden_size)
        heads = torch.einsum("phd,hde->phe", found[h + "attn.z"], weight)
        after = 1 + block.post_attention_layernorm.weight.detach()
        for norm, x in (
            ("ln_1", "resid_pre"), ("ln_1_post", "attn.proj"), ("ln_2", "resid_mid"),
            ("ln_2_post", "mlp.proj"),
        ):  # fmt: skip
            found |= norm_statistics(h + norm, found[h + x], cfg.rms_norm_eps)
        found[h + "attn.heads"] = heads / found[h + "ln_1_post.rms"][:, None, None] * after
    found |= norm_statistics("ln_f", found[f"h.{len(model.model.layers) - 1}.resid_post"], cfg.rms_norm_eps)
    return {name: x.detach() if x.dtype in HALF else x.detach().numpy() for name, x in found.items()}


def norm_statistics(name: str, x: torch.Tensor, eps: float) -> dict[str, torch.Tensor]:
    """The derived sites of an RMSNorm that reads x."""
    rms = (x.square().mean(-1) + eps).sqrt()
    return {f"{name}.rms": rms, f"{name}.normalized": x / rms[:, None]}
