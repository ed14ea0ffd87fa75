"""HF's GPT-2 as the oracle: random checkpoints, and every site captured with hooks. Needs torch."""

import math
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def random_model(seed: int, **config) -> GPT2LMHeadModel:
    """A GPT-2 in which every parameter is random: no bias 0, no norm 1, attention visibly uneven."""
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config(attn_implementation="eager", **config)).eval()
    n_embd = model.config.n_embd
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".ln_" in name and name.endswith("weight"):
                p.normal_(1.0, 0.3)
            elif name.endswith("bias"):
                p.normal_(0.0, 0.2)
            elif "c_attn" in name:
                p.normal_(0.0, 1.5 / math.sqrt(n_embd))
            elif name.startswith(("transformer.wte", "transformer.wpe", "lm_head")):
                p.normal_(0.0, 0.5)
            else:
                p.normal_(0.0, 1.0 / math.sqrt(p.shape[0]))
    return model


def save(model: GPT2LMHeadModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def capture(model: GPT2LMHeadModel, ids: list[int]) -> dict[str, np.ndarray]:
    """Every stored and derived site of DESIGN section 4 under our names, in the model's precision."""
    cfg, found = model.config, {}
    n_head, n_embd = cfg.n_head, cfg.n_embd
    hooks = []

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
        h = f"h.{i}."
        keep(h + "resid_pre", block.ln_1, of_input=True)
        keep(h + "ln_1", block.ln_1)
        keep(h + "attn.qkv", block.attn.c_attn)
        keep(h + "attn.z", block.attn.c_proj, of_input=True)
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
    found["wpe"] = found["wpe"].reshape(len(ids), n_embd)
    found["logits"] = out.logits[0]
    found["probabilities"] = out.logits[0].softmax(-1)
    targets = torch.tensor(ids[1:], dtype=torch.long)
    losses = torch.nn.functional.cross_entropy(out.logits[0, :-1], targets, reduction="none")
    found["loss"] = torch.cat([losses, losses.new_full((1,), math.nan)])
    found["top_k_tokens"] = out.logits[0].topk(min(10, cfg.vocab_size)).indices
    for i in range(cfg.n_layer):
        h = f"h.{i}."
        found[h + "attn.pattern"] = out.attentions[i][0]
        q, k, v = (x.reshape(len(ids), n_head, -1) for x in found[h + "attn.qkv"].split(n_embd, dim=1))
        found |= {h + "attn.q": q, h + "attn.k": k, h + "attn.v": v}
        scale = (n_embd // n_head) ** -0.5 if cfg.scale_attn_weights else 1.0
        scale /= i + 1 if cfg.scale_attn_by_inverse_layer_idx else 1
        scores = torch.einsum("qhd,khd->hqk", q, k) * scale
        future = torch.ones(len(ids), len(ids), dtype=torch.bool).triu(1)
        found[h + "attn.scores"] = scores.masked_fill(future, -math.inf)
        z = found[h + "attn.z"] = found[h + "attn.z"].reshape(len(ids), n_head, -1)
        weight = t.h[i].attn.c_proj.weight.detach().reshape(n_head, -1, n_embd)
        found[h + "attn.heads"] = torch.einsum("phd,hde->phe", z, weight)
        for norm, x in (("ln_1", found[h + "resid_pre"]), ("ln_2", found[h + "resid_mid"])):
            found |= norm_statistics(h + norm, x, cfg.layer_norm_epsilon)
    found |= norm_statistics("ln_f", found[f"h.{cfg.n_layer - 1}.resid_post"], cfg.layer_norm_epsilon)
    return {name: value.numpy() for name, value in found.items()}


def norm_statistics(name: str, x: torch.Tensor, eps: float) -> dict[str, torch.Tensor]:
    """The derived sites of a LayerNorm that reads x."""
    mean, variance = x.mean(-1), x.var(-1, correction=0)
    rstd = (variance + eps).rsqrt()
    return {
        f"{name}.mean": mean,
        f"{name}.rstd": rstd,
        f"{name}.normalized": (x - mean[:, None]) * rstd[:, None],
    }
