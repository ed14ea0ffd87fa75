/* Well-known mistakes, each off unless the compiler is told otherwise: cc -DMISTAKE_GELU_ERF ... */
#ifndef MISTAKES_H
#define MISTAKES_H

#ifndef MISTAKE_POSITION_OFFSET /* positions counted from 1 */
#define MISTAKE_POSITION_OFFSET 0
#endif
#ifndef MISTAKE_LAYERNORM_DDOF1 /* variance divided by n - 1 */
#define MISTAKE_LAYERNORM_DDOF1 0
#endif
#ifndef MISTAKE_EPSILON_OUTSIDE /* epsilon added to the root, not inside it */
#define MISTAKE_EPSILON_OUTSIDE 0
#endif
#ifndef MISTAKE_QKV_KV_SWAPPED /* values taken for keys, and keys for values */
#define MISTAKE_QKV_KV_SWAPPED 0
#endif
#ifndef MISTAKE_SCORES_UNSCALED /* no 1 / sqrt(d_head) */
#define MISTAKE_SCORES_UNSCALED 0
#endif
#ifndef MISTAKE_MASK_OFF_BY_ONE /* the next token is seen */
#define MISTAKE_MASK_OFF_BY_ONE 0
#endif
#ifndef MISTAKE_MASK_MISSING /* every token is seen */
#define MISTAKE_MASK_MISSING 0
#endif
#ifndef MISTAKE_MISSING_BIAS /* that of attention's c_proj in layer 1 */
#define MISTAKE_MISSING_BIAS 0
#endif
#ifndef MISTAKE_RESIDUAL_AFTER_LN /* attention's output added to what ln_1 made of the stream */
#define MISTAKE_RESIDUAL_AFTER_LN 0
#endif
#ifndef MISTAKE_GELU_ERF /* the exact GELU; GPT-2 was trained with its tanh approximation */
#define MISTAKE_GELU_ERF 0
#endif
#ifndef MISTAKE_GELU_QUICK /* x * sigmoid(1.702 x) */
#define MISTAKE_GELU_QUICK 0
#endif
#ifndef MISTAKE_LN_F_MISSING /* the stream unembedded as it is */
#define MISTAKE_LN_F_MISSING 0
#endif

#endif
