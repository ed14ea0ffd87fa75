"""The sites of GPT-2, in the order of execution, and how the derived ones are computed."""

from gpt2np.ops import Array
from gpt2np.tracing import derived, site_rows
from gpt2np.tracing.derived import Derived
from gpt2np.tracing.sites import Site, SiteTable, names_of

SITES = SiteTable(
    (
        site_rows.token_embedding(
            guide="token_embeddings", hf="transformer.wte", tl="hook_embed", ts="tokenEmbeddings"
        ),
        site_rows.position_embedding(
            guide="position_embeddings", hf="transformer.wpe", tl="hook_pos_embed", ts="positionEmbeddings"
        ),
        site_rows.embedding_sum(guide="combined_embeddings", hf="transformer.drop", llmc="encoded"),
        site_rows.resid_pre(),
        *site_rows.layer_norm_rows("ln_1", "resid_pre", "blocks.{i}.ln1.hook_normalized", "ln1"),
        site_rows.ln_1(guide="ln_1_output layer_{i}_ln_1_output", hf="transformer.h.{i}.ln_1", llmc="ln1"),
        Site(
            "attn.qkv",
            "pos 3*n_embd",
            "Queries, keys and values of all heads side by side; a generation's cache is filled from it.",
            names_of("c_attn_output layer_{i}_c_attn_output", "transformer.h.{i}.attn.c_attn", llmc="qkv"),
        ),
        site_rows.query(derived=True, guide="Q layer_{i}_Q", ts="query"),
        site_rows.key(derived=True, guide="K layer_{i}_K", ts="key"),
        site_rows.value(derived=True, guide="V layer_{i}_V", ts="value"),
        site_rows.scores(
            "Scaled dot products of queries and keys, before softmax; -inf in the future.",
            guide="raw_attention_scores layer_{i}_raw_attention_scores",
            llmc="preatt",
            ts="rawAttentionScores",
        ),
        site_rows.pattern(
            guide="attention_weights layer_{i}_attention_weights", llmc="att", ts="attentionWeights"
        ),
        site_rows.z(guide="layer_{i}_result weighted_values layer_{i}_weighted_values", llmc="atty"),
        site_rows.heads("Each head's output vector: its result times its slice of c_proj, without the bias."),
        site_rows.attention_out(
            "What attention writes to the residual stream: all heads' outputs plus a bias.",
            guide="attention_output layer_{i}_attention_output",
            hf="transformer.h.{i}.attn transformer.h.{i}.attn.c_proj",
            llmc="attproj",
            ts="attentionOutput",
        ),
        site_rows.resid_mid(llmc="residual2"),
        *site_rows.layer_norm_rows("ln_2", "resid_mid", "blocks.{i}.ln2.hook_normalized", "ln2"),
        site_rows.ln_2(guide="ln_2_output layer_{i}_ln_2_output", hf="transformer.h.{i}.ln_2", llmc="ln2"),
        site_rows.mlp_pre(
            guide="mlp_hidden layer_{i}_mlp_hidden",
            hf="transformer.h.{i}.mlp.c_fc",
            llmc="fch",
            ts="mlpHidden",
        ),
        site_rows.mlp_post(
            guide="mlp_activated layer_{i}_mlp_activated",
            hf="transformer.h.{i}.mlp.act",
            llmc="fch_gelu",
            ts="mlpActivated",
        ),
        site_rows.mlp_out(
            guide="mlp_output layer_{i}_mlp_output",
            hf="transformer.h.{i}.mlp transformer.h.{i}.mlp.c_proj",
            llmc="fcproj",
            ts="mlpOutput",
        ),
        site_rows.resid_post(
            guide="hidden_state layer_{i}_hidden_state",
            hf="transformer.h.{i}",
            llmc="residual3",
            ts="hiddenState",
        ),
        *site_rows.layer_norm_rows(
            "ln_f", "the last resid_post", "ln_final.hook_normalized", "lnf", layered=False
        ),
        site_rows.ln_f(
            guide="final_ln final_layer_norm", hf="transformer.ln_f", llmc="lnf", ts="finalLayerNorm"
        ),
        site_rows.logits(guide="logits", llmc="logits", ts="logits"),
        *site_rows.of_logits(llmc=True, guide=True),
    )
)


def split_qkv(qkv: Array, n_head: int) -> Array:
    """Views of queries, keys and values: [pos, 3*n_embd] -> [3, pos, head, d_head]."""
    n_pos, width = qkv.shape
    return qkv.reshape(n_pos, 3, n_head, width // (3 * n_head)).swapaxes(0, 1)


DERIVED: dict[str, Derived] = {
    "resid_pre": derived.RESID_PRE,
    **derived.layer_norm_statistics_of("ln_1"),
    "attn.q": derived.view_of("attn.qkv", lambda qkv, cfg: split_qkv(qkv, cfg.n_head)[0]),
    "attn.k": derived.view_of("attn.qkv", lambda qkv, cfg: split_qkv(qkv, cfg.n_head)[1]),
    "attn.v": derived.view_of("attn.qkv", lambda qkv, cfg: split_qkv(qkv, cfg.n_head)[2]),
    "attn.heads": derived.head_outputs_by(lambda p, layer: p.h[layer].attn.c_proj.weight),
    **derived.layer_norm_statistics_of("ln_2"),
    **derived.layer_norm_statistics_of("ln_f"),
    **derived.OF_LOGITS,
}
