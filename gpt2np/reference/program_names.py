"""What arrays are called in programs that many people have, site by site: data, and which part reads what.

`{i}` stands for the layer. What the dialects of `gpt2np.export` call them is in the table of sites.
"""

import functools
import itertools
from collections.abc import Iterator, Mapping

from gpt2np.tracing.contract import DEFAULT, ModelConfig, find
from gpt2np.tracing.lines import lines, part_of
from gpt2np.tracing.sites import Site

# What stands before the number of a layer, or nothing: nanoGPT, rasbt, llama.cpp, flax, ...
LAYER_WORDS = ("h", "layer", "layers", "block", "blocks", "l", "blk", "trf_blocks", "transformer_blocks", "")

# Sites that a name may mean, the usual one first (which of them it is shows by shape and values): names
# in nanoGPT, minGPT, rasbt, llama.cpp, TransformerLens 4, pyvene, the transformer debugger, flax, torch.
PROGRAM_NAMES: dict[str, str] = {
    "wte": "token_embedding_table "
    "embed.hook_out tok_emb tok_embed tok_embedding tok_embeddings token_embd token_embed "
    "embed_tokens token_embedding inp_embd inp_tokens tokens_embed",
    "wpe": "position_embedding_table position_embed "
    "pos_embed.hook_out pos_emb pos_embd pos_embedding position_embd position_embed embed_positions "
    "position_embedding positions_embed",
    "embed": "resid.post_emb drop_emb inpL emb embd embeddings input_embeddings combined_embedding",
    "ln_1": "h.{i}.layer_normalization h.{i}.self_attn_layer_norm h.{i}.pre_attn_layernorm "
    "h.{i}.attention_input "
    "h.{i}.norm1 h.{i}.norm_1 h.{i}.ln1.hook_out h.{i}.attn_norm h.{i}.attention_norm h.{i}.attn_ln "
    "h.{i}.input_layernorm h.{i}.layernorm1 h.{i}.layer_norm1 h.{i}.layer_norm_1 h.{i}.ln1",
    "ln_1.normalized ln_1": "h.{i}.ln1.hook_normalized",
    "attn.qkv": "h.{i}.linear_qkv h.{i}.self_attention.linear_qkv "
    "h.{i}.attn_qkv h.{i}.c_attn "
    "h.{i}.bqkv h.{i}.attn.qkv.hook_out h.{i}.attn.qkv_proj h.{i}.attn.in_proj "
    "h.{i}.att.qkv h.{i}.attn.Wqkv h.{i}.self_attn.qkv_proj",
    "attn.q": "h.{i}.head_query_output "
    "h.{i}.attn.q.hook_out h.{i}.att.W_query h.{i}.attn.W_query h.{i}.attn.q_proj h.{i}.attn_q "
    "h.{i}.Qcur h.{i}.attn.query h.{i}.self_attn.q_proj h.{i}.att.queries",
    "attn.k": "h.{i}.head_key_output "
    "h.{i}.attn.k.hook_out h.{i}.att.W_key h.{i}.attn.W_key h.{i}.attn.k_proj h.{i}.attn_k "
    "h.{i}.Kcur h.{i}.attn.key h.{i}.self_attn.k_proj h.{i}.att.keys",
    "attn.v": "h.{i}.head_value_output "
    "h.{i}.attn.v.hook_out h.{i}.att.W_value h.{i}.attn.W_value h.{i}.attn.v_proj h.{i}.attn_v "
    "h.{i}.Vcur h.{i}.attn.value h.{i}.self_attn.v_proj h.{i}.att.values",
    "attn.scores": "h.{i}.attn.qk_logits "
    "h.{i}.att.attn_scores h.{i}.attn.attn_scores h.{i}.attn_scores h.{i}.kq h.{i}.att.scores",
    "attn.pattern": "h.{i}.attention_weight h.{i}.attn.qk_probs "
    "h.{i}.att.attn_weights h.{i}.attn.attn_weights h.{i}.attn_weights h.{i}.attn_probs "
    "h.{i}.attn.attn_probs h.{i}.kq_soft_max h.{i}.kq_soft_max_ext h.{i}.attn.attn_dropout "
    "h.{i}.att.dropout h.{i}.attn.probs",
    "attn.pattern attn.out": "h.{i}.att",
    "attn.z": "h.{i}.attn.v_out h.{i}.head_attention_value_output h.{i}.attention_value_output "
    "h.{i}.attn.o.hook_in h.{i}.att.context_vec h.{i}.attn.context_vec h.{i}.context_vec h.{i}.kqv "
    "h.{i}.kqv_merged h.{i}.kqv_merged_cont h.{i}.merged h.{i}.attn.merged",
    "attn.z attn.out": "h.{i}.kqv_out",
    "attn.out": "h.{i}.sa h.{i}.sa.proj h.{i}.self_attention h.{i}.self_attn.out_proj "
    "h.{i}.linear_proj h.{i}.self_attention.linear_proj "
    "h.{i}.resid.delta_attn h.{i}.post_attn "
    "h.{i}.attn.o.hook_out h.{i}.attn.hook_out h.{i}.attn.hook_hidden_states h.{i}.att.out_proj "
    "h.{i}.attn.out_proj h.{i}.attn.o_proj h.{i}.attn_out h.{i}.attn_output h.{i}.attn.proj "
    "h.{i}.attn.resid_dropout h.{i}.self_attn h.{i}.self_attn.o_proj h.{i}.attention",
    "resid_mid": "h.{i}.resid.post_attn h.{i}.residual_attn "
    "h.{i}.ffn_inp h.{i}.mid h.{i}.attn_residual h.{i}.residual1",
    "ln_2": "h.{i}.layer_normalization_1 h.{i}.pre_mlp_layernorm h.{i}.final_layer_norm "
    "h.{i}.mlp_input "
    "h.{i}.norm2 h.{i}.norm_2 h.{i}.ln2.hook_out h.{i}.ffn_norm h.{i}.mlp_norm h.{i}.mlp_ln "
    "h.{i}.mlp.in.hook_in h.{i}.post_attention_layernorm h.{i}.layernorm2 h.{i}.layer_norm2 "
    "h.{i}.layer_norm_2 h.{i}.ln2",
    "ln_2.normalized ln_2": "h.{i}.ln2.hook_normalized",
    "mlp.up": "h.{i}.ffn_up h.{i}.ffn_up_b h.{i}.ffn.up",  # where there is none, the next line
    "mlp.pre": "h.{i}.ffn_up h.{i}.ffn_up_b h.{i}.mlp.up h.{i}.mlp.up_proj h.{i}.ffn.up h.{i}.mlp.gate_proj "
    "h.{i}.mlp.gate h.{i}.ffn_gate h.{i}.fc1 h.{i}.linear1 h.{i}.linear_fc1 h.{i}.mlp.linear_fc1 "
    "h.{i}.ffwd.net.0 "
    "h.{i}.intermediate.dense "
    "h.{i}.mlp.pre_act h.{i}.c_fc "
    "h.{i}.mlp.in.hook_out h.{i}.ff.layers.0 h.{i}.mlp.fc "
    "h.{i}.mlp.fc1 h.{i}.ff.0 h.{i}.mlp.0",
    "mlp.post": "h.{i}.ffwd.net.1 "
    "h.{i}.mlp.post_act h.{i}.mlp_activation "
    "h.{i}.mlp.gelu h.{i}.ff.layers.1 h.{i}.ffn_gelu h.{i}.ffn_act h.{i}.mlp.act_fn h.{i}.gelu "
    "h.{i}.mlp.activation h.{i}.mlp.nonlin h.{i}.mlp.relu h.{i}.ff.1 h.{i}.mlp.1",
    "mlp.out": "h.{i}.fc2 h.{i}.linear2 h.{i}.linear_fc2 h.{i}.mlp.linear_fc2 "
    "h.{i}.ffwd h.{i}.ffwd.net h.{i}.ffwd.net.2 h.{i}.ffwd.net.3 "
    "h.{i}.resid.delta_mlp h.{i}.post_ffn "
    "h.{i}.mlp.out.hook_out h.{i}.mlp.hook_out h.{i}.ff h.{i}.ff.layers h.{i}.ff.layers.2 "
    "h.{i}.ffn_out h.{i}.ffn_down h.{i}.ffn h.{i}.feed_forward h.{i}.mlp.proj h.{i}.mlp.fc2 h.{i}.mlp.down "
    "h.{i}.mlp.down_proj h.{i}.ffn.down h.{i}.mlp.dropout h.{i}.ff.2 h.{i}.mlp.2",
    "resid_pre": "h.{i}.block_input h.{i}.hook_in",
    "resid_post": "h.{i}.hidden_states "
    "h.{i}.resid.post_mlp h.{i}.block_output h.{i}.residual_ffn h.{i}.hook_out h.{i}.l_out",
    "ln_f.normalized ln_f": "ln_final.hook_normalized",
    "ln_f ln_f.normalized": "unembed.hook_in",  # where TransformerLens has folded the weight of the norm
    "ln_f": "resid.post_ln_f "
    "ln_final.hook_out final_norm last_hidden_state output_norm result_norm ln_final final_layernorm",
    "logits": "unembed out_head result_output hook_unembed lm_head.hook_out head logits_out",
}

# Sites that are the output of a part which reads what its line does; of `attn` and `mlp` as a whole, their
# first part's. (Of what is only in between, a dropout of the pattern for one, the input is nothing else.)
_PARTS = tuple(
    """ln_1 attn.qkv attn.q attn.k attn.v attn.proj attn.out ln_2 mlp.pre mlp.act mlp.up mlp.post mlp.proj
    mlp.out logits""".split()
)
OF_WHOLE_PARTS = {"attn.out": "ln_1", "attn.proj": "ln_1", "mlp.out": "ln_2", "mlp.proj": "ln_2"}
WHOLE_PARTS = ("attn", "att", "attention", "self_attn", "mlp", "ff", "ffn", "feed_forward")


def program_names(config: ModelConfig) -> Iterator[tuple[str, tuple[Site, ...]]]:
    """Every name with the sites that it may mean, of those that the model has."""
    table = config.architecture.sites
    for sites, names in PROGRAM_NAMES.items():
        there = tuple(table[site] for site in sites.split() if site in table)
        if there:
            yield from ((name, there) for name in names.split())


def names_elsewhere(config: ModelConfig) -> Iterator[str]:
    """Names that mean something in other models, and nothing in this one: that of a fused qkv for one."""
    table = config.architecture.sites
    for sites, names in PROGRAM_NAMES.items():
        if not any(site in table for site in sites.split()):
            yield from names.split()
    for site in find(DEFAULT).sites:
        if site.name not in table:
            yield from (
                f"h.{{i}}.{site.name}" if site.layered else site.name,
                *itertools.chain(*site.names.values()),
            )


@functools.lru_cache(maxsize=8)
def reads(config: ModelConfig) -> Mapping[str, str]:
    """Which site the part reads whose output is a site, as the lines of the forward pass have it."""
    table, found = config.architecture.sites, {"resid_post": "resid_pre", "logits_raw": "ln_f"}
    run = lines(config)
    for name, line in run.items():
        site, layer = table.resolve(name, None, config.n_layer)
        while line.op is part_of and line.reads[0] is not None:
            line = run[line.reads[0]]
        if site.name in _PARTS and line.reads[0] is not None:
            read, of = table.resolve(line.reads[0], None, config.n_layer)
            found[site.name] = read.name if of == layer else "resid_pre"
    return found
