# %% [markdown]
# # 2. What a word does alone: stream, LayerNorm, MLP
# minutes: 45
#
# **Question: what happens to a vector on its way down, as long as nobody else is asked?**
#
# You need lesson 1 and NumPy. Run the cells from top to bottom. Three of them hold a function that ends in
# `return lessons.todo`: write your own lines there, then run the check below it. It tells you whether you are
# right, and if you are not, what to ask yourself.

# %%
import numpy as np

import gpt2np
from gpt2np import lessons
from gpt2np.analysis import neurons

model = gpt2np.load("tiny", dtype="float64")
L = "Lord Tamber spoke; and then Lord Tam"
trace = model.trace(L)
tokens = list(trace.tokens)
stages = ["embed", *(f"h.{layer}.resid_post" for layer in range(4))]
lengths = np.stack([np.linalg.norm(trace[stage], axis=1) for stage in stages])  # [stage, pos]
axes = ("token", "site")
lessons.show(lessons.heatmap(lengths.T, tokens, stages, "how long each vector is", axes=axes))
print("mean:", *(f"{mean:.1f}" for mean in lengths.mean(axis=1)))
assert np.round(lengths.mean(axis=1), 1).tolist() == [2.4, 31.0, 35.9, 38.8, 49.6]
assert np.round(lengths[[1, 4, 4], [0, 0, 7]], 1).tolist() == [67.7, 48.1, 68.5]
assert round(lengths[1, 1:].max(), 1) == 32.0

# %% [markdown]
# ## 1. A vector that grows
# Lesson 1 ended with one vector for each token. From here on, every position has its own vector of 192
# numbers, all the way down to the prediction. It is called the **residual stream**. `tiny` has four layers,
# and each of them changes it. The site `h.0.resid_post` is the stream after layer 0.
#
# The vectors start with a length of 2.4 on average, and end with 49.6. The largest step is the first: from
# 2.4 to 31.0. After that, what was in the beginning is a small part of the whole.
#
# One position is different: the first one. Remember how long row 0 of `wpe` was. After layer 0 it is 67.7
# long, and no other position more than 32.0. It does not stay so: at the end it is down at 48.1, and the
# longest is ` and`, with 68.5.
#
# ## 2. The stream is a sum
# How does a layer change the stream? It *adds* something. That is all it can do. In each layer, two parts add
# a vector: first attention, which asks other positions (lesson 3), then the **MLP**, which asks nobody. So
# the last vector is a sum of everything that was ever added. Here is the last position, taken apart:

# %%
parts = ["wte", "wpe", *(f"h.{layer}.{part}.out" for layer in range(4) for part in ("attn", "mlp"))]
vectors = np.stack([trace[part][-1] for part in parts])  # [part, n_embd]
norms = np.linalg.norm(vectors, axis=1)
lessons.show(lessons.bars(norms, parts, "how long the parts of the sum are"))
whole = trace["h.3.resid_post"][-1]
print(f"{len(parts)} parts; their sum is the stream: {np.allclose(vectors.sum(axis=0), whole)}")
assert np.allclose(vectors.sum(axis=0), whole)
assert vectors.shape == (10, 192)
assert np.round(norms, 1).tolist() == [2.2, 1.3, 19.6, 11.8, 21.5, 12.7, 13.3, 14.3, 17.0, 24.0]

# %% [markdown]
# There are 10 parts: the row of `wte`, the row of `wpe`, and what attention and the MLP of each layer have
# added. The MLP of the last layer writes the longest, 24.0; in the first two layers attention writes more
# than the MLP, 19.6 and 21.5. The lengths do not add up to that of the stream, since the parts point in
# different directions. This lesson is about the MLPs.
#
# ## 3. Added, never replaced
# Nobody in this model can overwrite the stream. If a block wants something to be gone, it has to add the
# opposite. Check it in layer 1: the stream before, what attention adds, what the MLP adds, the stream after.

# %%
before, after = trace["h.0.resid_post"], trace["h.1.resid_post"]
middle = before + trace["h.1.attn.out"]
print("before + attention is resid_mid: ", np.allclose(middle, trace["h.1.resid_mid"]))
print("resid_mid + MLP is resid_post:   ", np.allclose(middle + trace["h.1.mlp.out"], after))
assert np.allclose(middle + trace["h.1.mlp.out"], after)

# %% [markdown]
# ## 4. Blocks read a tidied copy
# A vector of length 2.4 at the top, one of 49.6 at the bottom: how can a block read both? Before it reads,
# each block passes the stream through a **LayerNorm**. For each position alone, it subtracts the mean of the
# 192 numbers and divides by their spread (their standard deviation). The stream itself stays as it is: only
# the reader sees the normalised vector.

# %%
for site in ("embed", "h.3.resid_mid"):
    x = trace[site][-1]
    normalised = (x - x.mean()) / x.std()
    print(f"{site:13}  mean {x.mean():6.3f}  spread {x.std():.3f}  largest {abs(x).max():.2f}", end="   ")
    print(f"normalised: spread {normalised.std():.3f}  largest {abs(normalised).max():.2f}")
assert [round(trace[site][-1].std(), 3) for site in ("embed", "h.3.resid_mid")] == [0.18, 2.333]

# %% [markdown]
# A spread of 0.180 and one of 2.333 both become 1. How long a vector was can no longer be seen. Which of its
# numbers lie above its mean and which below, and in what proportion, still can.
#
# ## 5. Scale, shift, and a very small number
# Two more things belong to it. After normalising, each of the 192 numbers is multiplied by a learned
# *weight*, and a learned *bias* is added. So a block can choose which numbers it wants to see large. And to
# the variance (the mean of the squared differences from the mean), a small number called `epsilon` is added
# before the root is taken. Otherwise a vector of equal numbers would be divided by zero.

# %%
ln_1 = model.parameters.h[0].ln_1
print(f"weights of h.0.ln_1: {ln_1.weight.min():.2f} to {ln_1.weight.max():.2f}, epsilon {ln_1.epsilon}")
print(lessons.inputs("stream.layer_norm"))
assert [round(ln_1.weight.min(), 2), round(ln_1.weight.max(), 2)] == [0.38, 0.91]

# %% [markdown]
# **Your turn.** Write LayerNorm for all positions at once.


# %%
def layer_norm(x, weight, bias, epsilon):
    """x [pos, n_embd]; weight, bias [n_embd]; epsilon, a number -> [pos, n_embd]."""
    return lessons.todo


# %%
lessons.check("stream.layer_norm", layer_norm)

# %% [markdown]
# ## 6. 768 neurons, most of them silent
# The MLP is a matrix, a curve, and another matrix. The first matrix (`c_fc`) makes 768 numbers out of the 192
# that LayerNorm hands it. Each of the 768 is called a **neuron**. The curve decides which neurons speak:
# large numbers pass, numbers far below zero become nearly nothing. The second matrix (`c_proj`) lets those
# that speak write into the stream.
#
# GPT-2's curve is called GELU; its formula stands in the stub below. (There is an exact GELU as well, from
# which this one differs by less than a thousandth. GPT-2 was trained with this one.)

# %%
below = [float((trace[f"h.{layer}.mlp.pre"] < 0).mean()) for layer in range(4)]
title = "share of neurons below zero, before the curve"
lessons.show(lessons.bars(below, [f"layer {layer}" for layer in range(4)], title, percent=True))
least = min(float(trace[f"h.{layer}.mlp.post"].min()) for layer in range(4))
print(f"after the curve, the smallest number of all is {least:.2f}")
speak = trace["h.1.mlp.post"] > 0.5  # [pos, d_mlp]
each, any_of, all_of = speak.sum(axis=1), speak.any(axis=0).sum(), speak.all(axis=0).sum()
print(f"above 0.5 in layer 1: {each.min()} to {each.max()} neurons at each token;", end=" ")
print(f"{any_of} at one token or more, {all_of} at every token")
assert (each.min(), each.max(), any_of, all_of) == (17, 86, 408, 0)
assert 4 * speak.shape[1] == 4 * 768 == 3072
assert [round(100 * share) for share in below] == [88, 82, 83, 79]
assert round(least, 2) == -0.17

# %% [markdown]
# In layer 0, 88 % of the neurons are below zero, and in the others nearly as many: 82 %, 83 % and 79 %. The
# curve turns all of these into numbers between -0.17 and 0. Only a few neurons speak loudly at each token: in
# layer 1, between 17 and 86 of the 768 are above a half. They are not the same ones at every token: 408 are
# loud at one token or another, and none at all twelve.
#
# **Your turn.** Write the curve, for an array of any shape.


# %%
def gelu(x):
    """x, any shape -> 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), the same shape."""
    return lessons.todo


# %%
lessons.check("stream.gelu", gelu)

# %% [markdown]
# ## 7. What makes one neuron speak?
# Take neuron 210 of layer 1, and let it read a sentence:

# %%
AS = "Such a man as you are is as good as gold, and better than a lord; as for me, I am no richer than I was."
reading = model.trace(AS)
spoken = neurons.neuron_activations(reading, 1, 210).array
loudest = np.argsort(-spoken)[:8]
title = "where neuron 210 of layer 1 is loudest"
lessons.show(lessons.bars(spoken[loudest], [reading.tokens[i] for i in loudest], title))
print(f"it is above 0.1 at {(spoken > 0.1).sum()} of {len(spoken)} tokens")
assert [reading.tokens[i] for i in loudest[:4]] == [" as", " as", " as", " as"]
assert [reading.tokens[i] for i in loudest[5:7]] == [" than", " than"]
assert round(spoken.max(), 1) == 4.7

# %% [markdown]
# The four loudest are all four ` as` of the sentence, up to 4.7. Next to them are `uch` (of "such") and both
# ` than`: words that compare. Nobody put such a neuron there. (Most neurons are much harder to read than this
# one.)
#
# ## 8. What does it write?
# When a neuron speaks, it adds its own row of `c_proj` to the stream, times how loud it is. Here is another
# one, neuron 279 of layer 3. It speaks at the end of a line, and its row points at another line end: in the
# plays, a speech is followed by an empty line. Take it away, and the model is less sure:

# %%
NIGHT = "I thank you, sir; good night.\n"


def without_neuron(post):
    """An edit of mlp.post that silences neuron 279."""
    post = post.copy()
    post[:, 279] = 0
    return post


night = model.trace(NIGHT)
silenced = model.trace(NIGHT, edits={"h.3.mlp.post": without_neuron})
print(f"neuron 279 of layer 3 at the line end: {night['h.3.mlp.post'][-1, 279]:.1f}")
raised = neurons.neuron(model, 3, 279).raises
print("what its row raises:", ", ".join(f"{each.token!r} {each.dot:.2f}" for each in raised[:3]))
line_end = model.token_ids("\n")[0]
for name, run in (("as it is", night), ("without it", silenced)):
    print(f"{name}: p of another line end {run.top(1)[0][2]:.2f}")
assert raised[0].token == "\n"
assert round(night["h.3.mlp.post"][-1, 279], 1) == 7.0
assert [run.top(1)[0][1] for run in (night, silenced)] == [line_end, line_end]
assert [round(run.top(1)[0][2], 2) for run in (night, silenced)] == [0.9, 0.77]

# %% [markdown]
# It is at 7.0 there, and without it the probability of an empty line falls from 0.90 to 0.77. One neuron of
# 3,072 does not decide alone; the others are there, too.
#
# **Your turn.** Put the whole step together: LayerNorm, first matrix, curve, second matrix, and the sum.
# `ln_2` has a `weight`, a `bias` and an `epsilon`; `c_fc` and `c_proj` have a `weight` [n_in, n_out] and a
# `bias`. Call the two functions that you have written.

# %%
print(lessons.inputs("stream.after_mlp"))
print(f"{4 * model.parameters.h[0].mlp.c_fc.weight.shape[1]:,} neurons in four layers")


# %%
def after_mlp(resid_mid, ln_2, c_fc, c_proj):
    """resid_mid [pos, n_embd], the stream before the MLP -> [pos, n_embd], the stream after it."""
    return lessons.todo


# %%
lessons.check("stream.after_mlp", after_mlp)

# %% [markdown]
# ## 9. One number that is not like the others
# Are all 192 numbers of the stream about equally large? Take the size of each (the root of its mean square
# over our text), after layer 0:

# %%
size = np.sqrt((trace["h.0.resid_post"] ** 2).mean(axis=0))  # [n_embd]
largest = np.argsort(-size)[:6]
typical = np.median(size)
title = "the largest numbers of the stream, as multiples of a typical one"
lessons.show(lessons.bars(size[largest] / typical, [f"number {i}" for i in largest], title))
first = trace["h.0.resid_post"][:, 94]
print("number 94 at each token:", *(f"{value:.0f}" for value in first))
print(f"a typical number is {typical:.1f} from zero")
assert np.round(size[largest[:2]] / typical, 1).tolist() == [8.8, 3.2]
assert largest[:2].tolist() == [94, 178]
assert [round(first[0]), round(first[6])] == [-45, -16]

# %% [markdown]
# Number 94 is 8.8 times as large as a typical one; the next has 3.2. It is largest at the first position,
# where it is -45, but large at others, too: -16 at `;`. Large models have such *outlier dimensions*, too.
# They are a nuisance: whoever rounds a model to fewer bits has to take care of them.
#
# ## 10. See for yourself
# This is the page of our run, at the MLP of layer 0. Choose another token: which neurons speak, and which of
# them speak everywhere?

# %%
lessons.show(gpt2np.view(trace, show="mlp", layer=0, pos=-1))

# %% [markdown]
# ## Break it
# Number 94 is large. Does the model need it, or is it a left-over that nobody reads? Set it to zero in the
# stream after layer 0, and see what becomes of the loss (in nats, as in lesson 1). Then do so at the first
# position only, where it is largest, and at all positions but the first. For comparison, the next two in size
# are set to zero, and number 0. Guess before you run it: how much does 94 matter, and where?

# %%
AUSTEN = (
    "Between Barton and Delaford, there was that constant communication which strong family affection would "
    "naturally dictate;"
)


def without(number, where=slice(None)):
    """An edit that sets one number of the stream to zero, at some positions."""

    def edit(stream):
        stream = stream.copy()
        stream[where, number] = 0
        return stream

    return edit


FIRST, OTHERS = slice(0, 1), slice(1, None)
changes = {
    "94": without(94),
    "94 at the first position": without(94, FIRST),
    "94 at all others": without(94, OTHERS),
    **{str(number): without(number) for number in (178, 162, 0)},
}
print(f"as it is{model.score(AUSTEN).loss:33.2f}")
losses = {}
for name, edit in changes.items():
    losses[name] = round(model.score(AUSTEN, edits={"h.0.resid_post": edit}).loss, 2)
    print(f"without {name:28}{losses[name]:5.2f}")
assert round(model.score(AUSTEN).loss, 2) == 3.46
assert list(losses.values()) == [4.32, 3.66, 3.86, 3.54, 3.58, 3.46]

# %% [markdown]
# Without number 94 the loss is 4.32 instead of 3.46; without number 178, the next in size, it is 3.54, and
# number 0 is not missed at all. So somebody reads 94, and not at the first position alone: without it there
# the loss is 3.66, and without it at all the others 3.86. Try others of the 192: is there one that the model
# misses more? In lesson 3 you will see who looks at the first position, and when.
#
# ## The real GPT-2
# GPT-2 small has 768 numbers in its stream and 3,072 neurons in each layer. If it is in your cache, this cell
# looks for its outlier dimensions and at its first position.

# %%
if lessons.available("gpt2"):
    gpt2 = gpt2np.load("gpt2")
    run = gpt2.trace(L, keep=["resid_post"])
    for layer in (0, 3, 6, 9):
        stream = run[f"h.{layer}.resid_post"]
        size = np.sqrt((stream**2).mean(axis=0))
        ranked = np.argsort(-size)[:3]
        norms = np.linalg.norm(stream, axis=1)
        print(f"after layer {layer}: numbers {ranked.tolist()} are largest,", end=" ")
        print(f"{size[ranked[0]] / np.median(size):.0f} times a typical one;", end=" ")
        print(f"the first vector is {norms[0]:.0f} long, the others {np.median(norms[1:]):.0f}")
else:
    print("GPT-2 is not in the cache; `gpt2np download gpt2` gets it (550 MB), and this cell measures it")
