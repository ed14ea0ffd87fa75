/* GPT-2's forward pass in plain C99, which writes down every step.
 *
 *     gpt2np fixture --out fixture                  a tiny GPT-2, its weights as C arrays
 *     cc -std=c99 -O2 -I fixture gpt2.c -o gpt2 -lm
 *     ./gpt2 steps                                  writes steps.bin and steps.txt
 *
 * steps.bin holds the steps one behind the other, bare float32; steps.txt has a line for each of them, as in
 * `h.0.ln_1 float32 7 12`. `gpt2np compare steps.bin --shapes steps.txt` reads the two.
 *
 * Every token has a vector of C numbers, its row of the residual stream. Each layer reads the stream twice
 * and adds to it twice: attention lets a token gather from those before it, the MLP works on each token
 * alone. At the end each row is compared with the vector of every token: the nearest is the prediction.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fixture.h"
#include "mistakes.h"

enum {
    T = GPT2_N_TOKENS,   /* tokens of the prompt */
    C = GPT2_N_EMBD,     /* width of the residual stream */
    H = GPT2_N_HEAD,     /* heads of attention, each D wide: C = H * D */
    D = GPT2_D_HEAD,
    M = GPT2_D_MLP,      /* neurons of an MLP */
    L = GPT2_N_LAYER,
    V = GPT2_VOCAB_SIZE
};

/* The weights of one layer. A matrix is [n_in][n_out]; its numbers lie row by row. */
struct layer {
    const float *ln_1_weight, *ln_1_bias;             /* [C] */
    const float *c_attn_weight, *c_attn_bias;         /* [C][3 * C], [3 * C]: makes queries, keys, values */
    const float *attn_c_proj_weight, *attn_c_proj_bias; /* [C][C], [C]: mixes the heads */
    const float *ln_2_weight, *ln_2_bias;             /* [C] */
    const float *c_fc_weight, *c_fc_bias;             /* [C][M], [M]: what each neuron reads */
    const float *mlp_c_proj_weight, *mlp_c_proj_bias; /* [M][C], [C]: what each neuron writes */
};
#define LAYER(i)                                                          \
    {gpt2_h_##i##_ln_1_weight,        gpt2_h_##i##_ln_1_bias,             \
     gpt2_h_##i##_attn_c_attn_weight, gpt2_h_##i##_attn_c_attn_bias,      \
     gpt2_h_##i##_attn_c_proj_weight, gpt2_h_##i##_attn_c_proj_bias,      \
     gpt2_h_##i##_ln_2_weight,        gpt2_h_##i##_ln_2_bias,             \
     gpt2_h_##i##_mlp_c_fc_weight,    gpt2_h_##i##_mlp_c_fc_bias,         \
     gpt2_h_##i##_mlp_c_proj_weight,  gpt2_h_##i##_mlp_c_proj_bias}
static const struct layer layers[L] = {LAYER(0), LAYER(1)};

/* ---- writing steps down ---- */

static FILE *numbers, *shapes;

static FILE *open_file(const char *name, const char *ending)
{
    char path[4096];
    FILE *file;
    if (snprintf(path, sizeof path, "%s%s", name, ending) >= (int)sizeof path
        || (file = fopen(path, "wb")) == NULL) {
        fprintf(stderr, "gpt2: %s%s: cannot be written\n", name, ending);
        exit(1);
    }
    return file;
}

/* A step of `layer` (-1: of none) with axes of sizes a, b and c; c = 1 where it has two axes only. */
static void record(int layer, const char *site, const float *x, int a, int b, int c)
{
    if (layer >= 0)
        fprintf(shapes, "h.%d.", layer);
    fprintf(shapes, c == 1 ? "%s float32 %d %d\n" : "%s float32 %d %d %d\n", site, a, b, c);
    fwrite(x, sizeof *x, (size_t)(a * b * c), numbers);
}

/* ---- the operations ---- */

/* y = x W + b: [T][n_in] -> [T][n_out] */
static void linear(float *y, const float *x, const float *weight, const float *bias, int n_in, int n_out)
{
    for (int t = 0; t < T; t++)
        for (int o = 0; o < n_out; o++) {
            float sum = 0.0f;
            for (int i = 0; i < n_in; i++)
                sum += x[t * n_in + i] * weight[i * n_out + o];
            y[t * n_out + o] = bias ? sum + bias[o] : sum;
        }
}

/* Each row to mean 0 and variance 1, then scaled and shifted: [T][C] -> [T][C] */
static void layer_norm(float y[T][C], float x[T][C], const float *weight, const float *bias)
{
    for (int t = 0; t < T; t++) {
        float mean = 0.0f, variance = 0.0f, scale;
        for (int i = 0; i < C; i++)
            mean += x[t][i] / C;
        for (int i = 0; i < C; i++)
            variance += (x[t][i] - mean) * (x[t][i] - mean);
        variance /= MISTAKE_LAYERNORM_DDOF1 ? C - 1 : C;
        scale = MISTAKE_EPSILON_OUTSIDE ? 1.0f / (sqrtf(variance) + GPT2_LAYER_NORM_EPSILON)
                                        : 1.0f / sqrtf(variance + GPT2_LAYER_NORM_EPSILON);
        for (int i = 0; i < C; i++)
            y[t][i] = (x[t][i] - mean) * scale * weight[i] + bias[i];
    }
}

static float gelu(float x)
{
    const float root = 0.7978845608f; /* sqrt(2 / pi) */
    if (MISTAKE_GELU_ERF)
        return 0.5f * x * (1.0f + erff(x * 0.7071067812f));
    if (MISTAKE_GELU_QUICK)
        return x / (1.0f + expf(-1.702f * x));
    return 0.5f * x * (1.0f + tanhf(root * (x + 0.044715f * x * x * x)));
}

static void add(float y[T][C], float a[T][C], float b[T][C])
{
    for (int t = 0; t < T; t++)
        for (int i = 0; i < C; i++)
            y[t][i] = a[t][i] + b[t][i];
}

/* exp of each number, divided by their sum; less the largest first, so that nothing overflows */
static void softmax(float *y, const float *x, int n)
{
    float largest = -INFINITY, sum = 0.0f;
    for (int i = 0; i < n; i++)
        largest = fmaxf(largest, x[i]);
    for (int i = 0; i < n; i++)
        sum += y[i] = expf(x[i] - largest);
    for (int i = 0; i < n; i++)
        y[i] /= sum;
}

/* ---- the model ---- */

/* The only place where tokens meet: each asks (query), finds who answers (key), and takes what they offer
 * (value), in every head for itself. [T][C] -> [T][C] */
static void attention(float out[T][C], float x[T][C], const struct layer *p, int layer)
{
    static float qkv[T][3][H][D], scores[H][T][T], pattern[H][T][T], z[T][H][D];
    const int k = MISTAKE_QKV_KV_SWAPPED ? 2 : 1, v = MISTAKE_QKV_KV_SWAPPED ? 1 : 2;
    const float scale = MISTAKE_SCORES_UNSCALED ? 1.0f : 1.0f / sqrtf(D);
    const int ahead = MISTAKE_MASK_MISSING ? T : MISTAKE_MASK_OFF_BY_ONE ? 1 : 0; /* keys seen of the future */
    const float *bias = MISTAKE_MISSING_BIAS && layer == 1 ? NULL : p->attn_c_proj_bias;

    linear(&qkv[0][0][0][0], &x[0][0], p->c_attn_weight, p->c_attn_bias, C, 3 * C);
    for (int h = 0; h < H; h++)
        for (int query = 0; query < T; query++) {
            for (int key = 0; key < T; key++) {
                float dot = 0.0f;
                for (int d = 0; d < D; d++)
                    dot += qkv[query][0][h][d] * qkv[key][k][h][d];
                scores[h][query][key] = key > query + ahead ? -INFINITY : dot * scale;
            }
            softmax(pattern[h][query], scores[h][query], T);
            for (int d = 0; d < D; d++) {
                z[query][h][d] = 0.0f;
                for (int key = 0; key < T; key++)
                    z[query][h][d] += pattern[h][query][key] * qkv[key][v][h][d];
            }
        }
    linear(&out[0][0], &z[0][0][0], p->attn_c_proj_weight, bias, C, C);

    record(layer, "attn.qkv", &qkv[0][0][0][0], T, 3 * C, 1);
    record(layer, "attn.scores", &scores[0][0][0], H, T, T);
    record(layer, "attn.pattern", &pattern[0][0][0], H, T, T);
    record(layer, "attn.z", &z[0][0][0], T, H, D);
    record(layer, "attn.out", &out[0][0], T, C, 1);
}

/* Each token by itself: M neurons read, fire and write. [T][C] -> [T][C] */
static void mlp(float out[T][C], float x[T][C], const struct layer *p, int layer)
{
    static float pre[T][M], post[T][M];
    linear(&pre[0][0], &x[0][0], p->c_fc_weight, p->c_fc_bias, C, M);
    for (int t = 0; t < T; t++)
        for (int i = 0; i < M; i++)
            post[t][i] = gelu(pre[t][i]);
    linear(&out[0][0], &post[0][0], p->mlp_c_proj_weight, p->mlp_c_proj_bias, M, C);

    record(layer, "mlp.pre", &pre[0][0], T, M, 1);
    record(layer, "mlp.post", &post[0][0], T, M, 1);
    record(layer, "mlp.out", &out[0][0], T, C, 1);
}

/* Read the stream and add to it, twice. */
static void block(float x[T][C], const struct layer *p, int layer)
{
    static float normed[T][C], out[T][C];
    layer_norm(normed, x, p->ln_1_weight, p->ln_1_bias);
    record(layer, "ln_1", &normed[0][0], T, C, 1);
    attention(out, normed, p, layer);
    add(x, MISTAKE_RESIDUAL_AFTER_LN ? normed : x, out);
    record(layer, "resid_mid", &x[0][0], T, C, 1);

    layer_norm(normed, x, p->ln_2_weight, p->ln_2_bias);
    record(layer, "ln_2", &normed[0][0], T, C, 1);
    mlp(out, normed, p, layer);
    add(x, x, out);
    record(layer, "resid_post", &x[0][0], T, C, 1);
}

int main(int argc, char **argv)
{
    static float wte[T][C], wpe[T][C], x[T][C], logits[T][V];
    int failed;

    if (argc != 2) {
        fprintf(stderr, "usage: gpt2 NAME    (writes NAME.bin and NAME.txt)\n");
        return 2;
    }
    numbers = open_file(argv[1], ".bin");
    shapes = open_file(argv[1], ".txt");

    /* a token's vector: what it is, plus where it stands */
    for (int t = 0; t < T; t++) {
        memcpy(wte[t], &gpt2_wte_weight[gpt2_token_ids[t] * C], sizeof wte[t]);
        memcpy(wpe[t], &gpt2_wpe_weight[(t + MISTAKE_POSITION_OFFSET) * C], sizeof wpe[t]);
    }
    record(-1, "wte", &wte[0][0], T, C, 1);
    record(-1, "wpe", &wpe[0][0], T, C, 1);
    add(x, wte, wpe);
    record(-1, "embed", &x[0][0], T, C, 1);

    for (int layer = 0; layer < L; layer++)
        block(x, &layers[layer], layer);

    /* the final vectors against every token's embedding */
    if (!MISTAKE_LN_F_MISSING) {
        layer_norm(x, x, gpt2_ln_f_weight, gpt2_ln_f_bias);
        record(-1, "ln_f", &x[0][0], T, C, 1);
    }
    for (int t = 0; t < T; t++)
        for (int token = 0; token < V; token++) {
            logits[t][token] = 0.0f;
            for (int i = 0; i < C; i++)
                logits[t][token] += x[t][i] * gpt2_wte_weight[token * C + i];
        }
    record(-1, "logits", &logits[0][0], T, V, 1);

    failed = ferror(numbers) || ferror(shapes);
    failed |= fclose(numbers) | fclose(shapes);
    if (failed)
        fprintf(stderr, "gpt2: %s.bin: could not be written whole\n", argv[1]);
    return failed ? 1 : 0;
}
