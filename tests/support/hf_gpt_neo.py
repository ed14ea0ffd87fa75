"""HF's GPT-Neo as the oracle: random checkpoints, and every site captured with hooks. Needs torch."""

import math

import numpy as np
import torch
from support.hf import norm_statistics
from support.true_double import true_double
from transformers import GPTNeoConfig, GPTNeoForCausalLM
from transformers.models.gpt_neo import modeling_gpt_neo

BASE = {"vocab_size": 61, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0}


def random_model(seed: int, kinds: str, **config) -> GPTNeoForCausalLM:
    """A GPT-Neo in which every parameter is random, attention visibly uneven; `kinds` is like "GLG"."""
    torch.manual_seed(seed)
    types = [[[{"G": "global", "L": "local"}[kind] for kind in kinds], 1]]
    settings = BASE | {"attention_types": types, "num_layers": len(kinds)} | config
    model = GPTNeoForCausalLM(GPTNeoConfig(attn_implementation="eager", **settings)).eval()
    width = model.config.hidden_size
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "ln_" in name and name.endswith("weight"):
                p.normal_(1.0, 0.3)
            elif name.endswith("bias"):
                p.normal_(0.0, 0.2)
            elif "q_proj" in name or "k_proj" in name:  # scores are not scaled by the root of d_head
                p.normal_(0.0, (width / model.config.num_heads) ** -0.25 * 1.2 / math.sqrt(width))
            elif name.startswith(("transformer.wte", "transformer.wpe", "lm_head")):
                p.normal_(0.0, 0.5)
            else:
                p.normal_(0.0, 1.0 / math.sqrt(p.shape[1]))
    return model


def double(model: GPTNeoForCausalLM, ids: list[int]) -> dict[str, np.ndarray]:
    """Every site in real float64: HF's own `double()` still computes scores and softmax in float32."""
    with true_double(modeling_gpt_neo):
        return capture(model.double(), ids)


def capture(model: GPTNeoForCausalLM, ids: list[int]) -> dict[str, np.ndarray]:
    """Every stored and derived site under our names, in the model's precision."""
    cfg, found, hooks = model.config, {}, []
    n, n_head = len(ids), cfg.num_heads

    def keep(name, module, of_input=False):
        def hook(_, inputs, output):
            value = inputs[0] if of_input else output[0] if isinstance(output, tuple) else output
            found[name] = value.detach()[0]

        hooks.append(module.register_forward_hook(hook))

    t = model.transformer
    keep("wte", t.wte)
    keep("wpe", t.wpe)
    keep("embed", t.drop)
    for i, block in enumerate(t.h):
        h, attention = f"h.{i}.", block.attn.attention
        keep(h + "resid_pre", block.ln_1, of_input=True)
        keep(h + "ln_1", block.ln_1)
        for which in "qkv":
            keep(f"{h}attn.{which}", getattr(attention, f"{which}_proj"))
        keep(h + "attn.z", attention.out_proj, of_input=True)
        keep(h + "attn.out", block.attn)
        keep(h + "resid_mid", block.ln_2, of_input=True)
        keep(h + "ln_2", block.ln_2)
        keep(h + "mlp.pre", block.mlp.c_fc)
        keep(h + "mlp.post", block.mlp.c_proj, of_input=True)
        keep(h + "mlp.out", block.mlp)
        keep(h + "resid_post", block)
    keep("ln_f", t.ln_f)
    try:
        with torch.no_grad():
            out = model(torch.tensor([ids]), output_attentions=True)
    finally:
        for hook in hooks:
            hook.remove()
    found["wpe"] = found["wpe"].reshape(n, -1)
    found["logits"], found["probabilities"] = out.logits[0], out.logits[0].softmax(-1)
    targets = torch.tensor(ids[1:], dtype=torch.long)
    losses = torch.nn.functional.cross_entropy(out.logits[0, :-1], targets, reduction="none")
    found["loss"] = torch.cat([losses, losses.new_full((1,), math.nan)])
    found["top_k_tokens"] = out.logits[0].topk(min(10, cfg.vocab_size)).indices
    for i, block in enumerate(t.h):
        h, attention = f"h.{i}.", block.attn.attention
        for name in ("q", "k", "v", "z"):
            found[f"{h}attn.{name}"] = found[f"{h}attn.{name}"].reshape(n, n_head, -1)
        found[h + "attn.pattern"] = out.attentions[i][0]
        scores = torch.einsum("qhd,khd->hqk", found[h + "attn.q"], found[h + "attn.k"])
        found[h + "attn.scores"] = scores.masked_fill(~attention.bias[0, 0, :n, :n], -math.inf)
        weight = attention.out_proj.weight.detach().T.reshape(n_head, -1, cfg.hidden_size)
        found[h + "attn.heads"] = torch.einsum("phd,hde->phe", found[h + "attn.z"], weight)
        for norm, x in (("ln_1", found[h + "resid_pre"]), ("ln_2", found[h + "resid_mid"])):
            found |= norm_statistics(h + norm, x, cfg.layer_norm_epsilon)
    found |= norm_statistics("ln_f", found[f"h.{cfg.num_layers - 1}.resid_post"], cfg.layer_norm_epsilon)
    return {name: value.numpy() for name, value in found.items()}
