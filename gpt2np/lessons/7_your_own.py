# %% [markdown]
# # 7. Your own GPT-2 in sixty lines, and a judge
# minutes: 75
#
# **Question: can you write it all, and how do you know that it is right?**
#
# You need lessons 1 to 4. This is the last lesson, and the one with the most to write: a whole GPT-2. Nobody
# gets that right at once. What counts is how fast you find what is wrong. So write it bit by bit, in this
# file or in one of your own, and ask the judge often.

# %%
from math import erf

import numpy as np

import gpt2np
from gpt2np import lessons
from gpt2np.reference.precision import rounded

model = gpt2np.load("tiny", dtype="float64")
L = "Lord Tamber spoke; and then Lord Tam"
trace = model.trace(L)
weights = model.weights  # arrays by name
block = [name for name in weights if name.startswith("h.0.")]
ends = [name for name in weights if not name.startswith("h.")]
for name in (*ends[:2], *block, *ends[2:]):
    print(f"{name:24} {weights[name].shape}")
print(
    f"{len(weights)} arrays: {len(ends)} of no layer, {len(block)} of each of {model.config.n_layer} layers"
)
print(f"{sum(array.size for array in weights.values()):,} numbers")

assert len(weights) == len(ends) + 4 * len(block) == 52
assert sum(array.size for array in weights.values()) == 2_222_208

# %% [markdown]
# ## 1. All there is
# That list is the whole model: 52 arrays, 2,222,208 numbers. Each layer has the same 12 arrays. A matrix is
# stored as `[n_in, n_out]`, so a row vector goes in on its left. Beside the arrays there are a few sizes, in
# `config`: `n_layer`, `n_head`, `n_embd`, `d_head`, `layer_norm_epsilon`.
#
# There is no matrix of its own for the end. The last step compares each vector with the rows of `wte`, the
# same table that the text began with.
#
# ## 2. Fifteen steps with a name
# Your function gets the arrays, the sizes and the token ids. It does not return an answer. It returns *every
# step* on the way, in a dict. Here are their names and shapes: those of layer 0, and the ones before and
# after the layers.

# %%
exam = lessons.examination()  # what is needed to judge programs that run our prompt; more about it below
steps = [name for name in exam.truth if not name.startswith(("h.1.", "h.2.", "h.3."))]
kinds = trace.config.architecture.sites
for name in steps:
    print(f"{name:18} [{', '.join(kinds.resolve(name, None, 4)[0].axis_names)}] = {trace[name].shape}")
print("GELU of x: 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x³)))")
x = trace["h.0.mlp.pre"]
root = (2 / np.pi) ** 0.5
assert np.allclose(trace["h.0.mlp.post"], 0.5 * x * (1 + np.tanh(root * (x + 0.044715 * x**3))))
assert len(steps) == 15  # wte and wpe are no steps of their own: embed is their sum

# %% [markdown]
# Three things to look up, since nobody remembers them:
#
# - LayerNorm: a row less its mean, divided by the root of (its variance plus epsilon), times the weight, plus
#   the bias. Epsilon stands *under* the root, and the variance is divided by n.
# - GELU is 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x³))).
# - A row of `attn.qkv` holds the queries of all heads first, then all keys, then all values; within each of
#   the three the heads follow one another.
#
# ## 3. Why not just the answer?
# Suppose that somebody writes a GPT-2 and forgets one bias, in layer 1. Only the logits are compared: they
# are wrong. What now? Then every step is compared, with the same function, `gpt2np.compare`:

# %%
bias = weights["h.1.mlp.c_proj.bias"]
theirs = model.trace(L, edits={"h.1.mlp.out": lambda out: out - bias})
only_logits = gpt2np.compare({"logits": theirs["logits"]}, model, L, noise=exam.noise, search=0.1)
every_step = gpt2np.compare(theirs, model, L, noise=exam.noise)
print("from the logits alone, the first wrong step is", only_logits.site)
print("from every step, it is", every_step.site, "and the mistake is", every_step.mistake)
assert only_logits.site == "logits"
assert (every_step.site, every_step.mistake) == ("h.1.mlp.out", "missing-bias")

# %% [markdown]
# The logits only say *that* something is wrong. The steps say where, and where is nearly why. Here is each
# step of that program: 1 where it is wrong, empty where it is right.

# %%
wrong = {site.site: site.verdict == "wrong" for site in every_step.sites}
inside = [name.removeprefix("h.0.") for name in steps if name.startswith("h.0.")]
grid = np.array([[1.0 if wrong[f"h.{layer}.{name}"] else np.nan for layer in range(4)] for name in inside])
layers = [f"layer {i}" for i in range(4)]
lessons.show(lessons.heatmap(grid, inside, layers, "one forgotten bias", axes=("step", "layer")))
assert not any(wrong[f"h.0.{name}"] for name in inside)
assert all(wrong[f"h.{layer}.{name}"] for layer in (2, 3) for name in inside if name != "attn.scores")

# %% [markdown]
# Layer 0 is right. In layer 1 all is right up to `mlp.out`, where the bias is missing. Behind it whatever is
# computed from wrong numbers is wrong, too, and none of it is a second mistake. Only the *first* wrong step
# matters.
#
# **Your turn.** Write the model. Helper functions may stand beside it. Begin with `embed`, run the check, add
# `h.0.ln_1`, run it again. The check tells you how many steps are right and which one is next. Names of
# Hugging Face or of TransformerLens will do, too, and so will heads before positions.
#
# A number that is added to a whole row of scores, or of logits, changes nothing for softmax; the check
# lets it pass. Take care that a step which you have put into the dict is not changed afterwards by a `+=`.


# %%
def run(weights, config, ids):
    """Arrays by name, sizes, a list of token ids -> {"embed": [pos, n_embd], ..., "logits": [pos, vocab]}."""
    return lessons.todo


# %%
lessons.check("own.run", run)

# %% [markdown]
# ## 4. What "right" means
# Nobody's numbers agree to the last digit. A sum in another order has another rounding error. So the judge
# runs the model in float64, and a few times in float32 with sums in other orders. That gives a *band* around
# each number: what arithmetic alone can explain. Inside it you are right, by definition.
#
# Two programs at work: one computes in float32, the other has the GELU of a textbook, with the error function
# instead of GPT-2's approximation of it. What do they answer?

# %%
before = {}


def keep(pre):
    """Remember what goes into the GELU."""
    before["gelu"] = pre.copy()
    return pre


def of_the_textbook(post):
    """x times the share of a normal distribution that is below x."""
    x = before["gelu"]
    return x * (1 + np.vectorize(erf)(x / 2**0.5)) / 2


textbook = model.trace(L, edits={"h.*.mlp.pre": keep, "h.*.mlp.post": of_the_textbook})
float32 = gpt2np.load("tiny", dtype="float32").trace(L)
for name, run_of in (("in float32", float32), ("textbook's GELU", textbook)):
    found = gpt2np.compare(run_of, model, L, noise=exam.noise)
    (token, _, p), *_ = run_of.top(1)
    print(f"{name:16} {token!r} {p:.4f}  {found.verdict}  {found.site or ''}  {found.mistake or ''}".rstrip())
    assert found.mistake == ("gelu-erf" if run_of is textbook else None)
print(
    f"the largest difference of two GELUs: {abs(textbook['h.0.mlp.post'] - trace['h.0.mlp.post']).max():.4f}"
)
assert [round(run_of.top(1)[0][2], 4) for run_of in (float32, textbook)] == [0.9757, 0.9759]
assert round(abs(textbook["h.0.mlp.post"] - trace["h.0.mlp.post"]).max(), 4) == 0.0005

# %% [markdown]
# Both say `ber`, with 0.9757 and 0.9759. One is within noise. The other is not GPT-2: it has another GELU,
# which in layer 0 is off by 0.0005 at most. A test that looks at the answer will never see this. A test
# that allows a thousandth will not see it either. The band does.
#
# ## 5. One token at a time
# A text grows by one token. Must everything be computed again? No: nobody sees the future, so the keys and
# values of the tokens before are still what they were. A **cache** keeps them.
#
# **Your turn.** `extend` gets only the *new* tokens, and a dict `cache` that is yours: empty at first, and
# the same one at every call. Return the steps of the new tokens alone. Scores and pattern have a row for each
# new token, and a column for *every* token so far. Three things change against `run`: where positions begin,
# what keys and values there are, and who may see whom. The check gives you six tokens at once, then one at a
# time; and in a second text six, then three, then one at a time.


# %%
def extend(weights, config, ids, cache):
    """As `run`, for new tokens; what you need of the earlier ones is what you have put into the cache."""
    return lessons.todo


# %%
lessons.check("own.extend", extend)

# %% [markdown]
# Is there anything left that `run` does, and `extend` with an empty cache does not?
#
# ## 6. A judge of your own
# You have trusted a judge that you cannot see into. So write one. You get somebody's steps, the true ones,
# and the bands. All three are dicts by name. The true one is in the order in which a model runs. Theirs is in
# any order, and need not have every step.

# %%
first = exam.dumps[0]
step = "h.0.ln_1"
print(
    "theirs:", first[step].shape, first[step].dtype, " true:", exam.truth[step].shape, exam.truth[step].dtype
)
print("band:  ", exam.bands[step].shape, "one number for each position")
print("the future in the true scores of layer 0:", exam.truth["h.0.attn.scores"][0, 3, 4:7])

# %% [markdown]
# **Your turn.** Return the name of the first step of which any number is further off than its band, and
# None if there is no such step. Mind the last line above. In the future the true scores are minus infinity:
# there theirs must be so, too, and minus infinity less minus infinity is NaN, "not a number". Where *they*
# have NaN, the step is wrong. Ask Python whether NaN is larger than a band, and whether it is smaller.
#
# In one thing your judge will be stricter than `compare`. Many programs write their scores down before the
# mask is laid over them. `compare` lets these pass, and if there is no mask at all it says `attn.pattern`.
# Yours will say `attn.scores`. Both are right about the program.


# %%
def first_wrong(theirs, truth, bands):
    """Three dicts of arrays by the step's name -> a name, or None."""
    return lessons.todo


# %%
lessons.check("own.first_wrong", first_wrong)

# %% [markdown]
# ## 7. How to read a wrong step
# A step has a few numbers that should be others. What do you look at? Here is a practice run, by somebody who
# has forgotten the square root of lesson 3 altogether:


# %%
practice = model.trace(L, edits={"h.*.attn.scores": lambda scores: scores * 48**0.5})
print(exam.clues(practice, "h.0.attn.scores"))
assert round(float(48**0.5), 4) == 6.9282

# %% [markdown]
# All of the scores of the past are too large by the same factor, 6.9282. Which number of this model is that?
# The square root of 48, the size of a head. So the guess is `scores-unscaled`: nobody divided.
#
# A guess can be tested. Make the mistake yourself, from the true numbers of the step before, and hold the
# result against what they have: queries times keys, without dividing.

# %%
q, k = (trace[f"h.0.attn.{x}"].swapaxes(0, 1) for x in "qk")  # [head, pos, d_head]
guess = q @ k.swapaxes(1, 2)
past = np.isfinite(practice["h.0.attn.scores"])
theirs, true = (run["h.0.attn.scores"][past] for run in (practice, trace))
left = np.abs(theirs - guess[past]).max()
print("largest error of the program:", round(np.abs(theirs - true).max(), 2))
print("what the guess leaves of it: ", round(left, 6))
assert left < 1e-9

# %% [markdown]
# Nothing is left of the error: that is the mistake. Had anything been left, it would be another one, however
# good the story was. Do the same with each dump below, if you are not sure.
#
# Not every mistake is a factor. A difference that is the same at all positions is a bias. Errors from one
# position on smell of a cache. Rows that hold what other rows should hold were mixed up in a reshape.
#
# ## 8. The examination
# Ten programs have run our text. Each has one mistake, and each dump is what it wrote down. Which mistakes
# are they? These are the answers that there are, twice as many as you need:

# %%
print(exam)

# %%
if lessons.judge("own.first_wrong", first_wrong).right:
    for i, dump in enumerate(exam.dumps):
        print(f"dump {i}: {exam.clues(dump, first_wrong(dump, exam.truth, exam.bands))}")
else:
    print("not yet: with `first_wrong` written, this cell shows where each dump goes wrong, and how")

# %% [markdown]
# **Your turn.** Look at the dumps as you like: `exam.dumps[3]["embed"]` is an array, and so is
# `exam.truth["embed"]`. The check tells you how many answers are right, and asks you something about the
# first one that is not. (`gpt2np.compare(exam.dumps[3], model, L).mistake` would tell you at once. Before, or
# after?)


# %%
def answers():
    """-> a list of ten of the names above, that of dump 0 first; None where you do not know yet."""
    return lessons.todo


# %%
lessons.check("own.answers", answers)

# %% [markdown]
# ## 9. Out into the world
# The judge reads files, too, of a program in any language. It knows the names of other libraries, several
# layouts, and half precision. In a terminal:
#
#     gpt2np compare theirs.safetensors --model tiny --prompt "Lord Tamber spoke; and then Lord Tam"
#
# With `--html report.html` it writes its report as a page, `--prefill 6` is for a run with a cache, and
# `gpt2np docs compare` tells the rest. In a test suite of your own it is one line. Here it is, for the model
# itself under the names of TransformerLens:

# %%
as_another = trace.to("transformer_lens")
found = gpt2np.compare(as_another, model, L, noise=exam.noise)
found.check()  # raises an error, with the report as its text, unless all is within noise
print(list(as_another)[:4], "...", found.verdict)
assert found.verdict == "within-noise"

# %% [markdown]
# ## Break it
# Take the right model, and make its weights coarser. First float16, then bfloat16: both have 16 bits, half of
# what float32 has. Are these mistakes? Guess what the judge says to each, and whether the first guess of the
# model changes. (If the judge names `wte`, it means the token's part of `embed`: this run records that, too.)

# %%
runs = {}
for kind in ("float16", "bfloat16"):
    coarse = model.with_weights({name: rounded(array, kind) for name, array in weights.items()})
    runs[kind] = coarse.trace(L)
    found = gpt2np.compare(runs[kind], model, L, noise=exam.noise)
    (token, _, p), *_ = runs[kind].top(1)
    print(f"{kind:9} {token!r} {p:.4f}  {found.verdict}  {found.site or ''}  {found.mistake or ''}".rstrip())
    assert found.mistake == (None if kind == "float16" else "weights-bfloat16")
assert [round(runs[kind].top(1)[0][2], 4) for kind in runs] == [0.9757, 0.9756]
same = all(np.array_equal(array, rounded(array, "float16")) for array in weights.values())
print("tiny's weights in float16 are the same numbers:", same)
assert same

# %% [markdown]
# Float16 changes nothing at all, for a simple reason: the file of `tiny` holds float16. With bfloat16 the
# model says 0.9756 instead of 0.9757, and yet the judge finds it wrong, at the very first step. It does not
# say that this is bad. It says that this is not the same model. Whether that matters is for you to know.
#
# ## The real GPT-2
# What you have written is the real one. Its arrays have the same names; only the sizes are others. If GPT-2
# is in your cache and `run` is right, this cell runs *your* function on it.

# %%
SENTENCE = "It is a truth universally acknowledged, that a single man must be in want of a wife."
if lessons.available("gpt2"):
    gpt2 = gpt2np.load("gpt2")
    ids = gpt2.token_ids(SENTENCE)
    print(f"loss of gpt2np: {gpt2.score(SENTENCE).loss:.3f}")
    if lessons.judge("own.run", run).right:
        yours = run(dict(gpt2.weights), gpt2.config, ids)
        print(gpt2np.compare(yours, gpt2, ids).verdict)
        logits = yours["logits"] - yours["logits"].max(axis=1, keepdims=True)
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        print(f"loss of yours:  {-np.log(p[range(len(ids) - 1), ids[1:]]).mean():.3f}")
else:
    print(
        "GPT-2 is not in the cache; `gpt2np download gpt2` gets it (550 MB), and this cell runs it with `run`"
    )
