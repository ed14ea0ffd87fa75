# %% [markdown]
# # 5. Find the induction head, then break it: circuits
# minutes: 60
#
# **Question: which parts of the model make copying happen, and how do you prove it?**
#
# You need lesson 3. There you saw heads that look at what came next, the last time. Seeing is not proving. In
# this lesson you take parts away, and you follow one piece of information on its way.

# %%
import numpy as np

import gpt2np
from gpt2np import lessons
from gpt2np.analysis import circuits
from gpt2np.analysis.interventions import zero
from gpt2np.analysis.patching import path_patch

model = gpt2np.load("tiny", dtype="float64")
L = "Lord Tamber spoke; and then Lord Tam"
print(f"after {L!r}:", ", ".join(f"{token!r} {p:.3f}" for token, _, p in model.trace(L).top(2)))

n = 40
half = np.random.default_rng(0).choice(np.arange(256, 2047), n, replace=False).tolist()
text = half + half  # 40 random tokens, said twice
clean = model.trace(text)
print(f"{n} tokens; the first ten: {model.tokens(half[:10])}")


def copying_loss(run):
    """Mean loss in the second half, in nats; its first five tokens do not count: the copy has only begun."""
    return run["loss"][n + 5 : -1].mean()


first_time, second_time = clean["loss"][5 : n - 1].mean(), copying_loss(clean)
print(f"loss the first time {first_time:.2f}, the second time {second_time:.2f}")
print(f"a guess among all {model.config.vocab_size} tokens would have {np.log(model.config.vocab_size):.2f}")

assert [round(float(loss), 2) for loss in (first_time, second_time)] == [11.91, 0.01]
assert round(float(np.log(2048)), 2) == 7.62
assert len(half) == 40

# %% [markdown]
# ## 1. A text that nobody has written
# Our sentence is one sentence. The model might know something about Lords. So here is a text about which it
# cannot know anything: 40 random tokens, and then the same 40 again.
#
# The first time it has a loss of 11.91. That is worse than the 7.62 of a blind guess: it expects English. The
# second time the loss is 0.01. It copies, and it is nearly never wrong. Nothing else than copying can do
# this.
#
# ## 2. What would a copying head look at?
# Think before you run the next cell. The model stands at a token, for the second time. It wants to know the
# next one. Which earlier position should it look at?
#
# For a picture that fits, here are only six tokens, said twice, and two heads that you know from lesson 3.

# %%
six = half[:6]
short = model.trace(six + six)
labels = list(short.tokens)
axes = ("query", "key")
for layer, head in ((0, 0), (1, 0)):
    seen = np.where(np.tri(12, dtype=bool), short[f"h.{layer}.attn.pattern"][head], np.nan)
    lessons.show(lessons.heatmap(seen, labels, labels, f"head {layer}.{head}", axes=axes, percent=True))
assert all(short["h.1.attn.pattern"][0, 6 + i].argmax() == i + 1 for i in range(6))

# %% [markdown]
# Head 0.0 looks at the token before, always. Head 1.0 rests on the first position as long as everything is
# new. In the second half it gets a stripe: each token looks at the one *after* its twin. That one is wanted
# next.
#
# **Your turn.** Turn this stripe into a number for every head: the mean share of attention that the queries
# of the second half give to the token after their twin. You get the patterns of a run of `n` tokens said
# twice.


# %%
def induction_score(pattern, n):
    """pattern [layer, head, query, key] of 2n tokens -> [layer, head], from 0 to 1."""
    return lessons.todo


# %%
lessons.check("circuits.induction_score", induction_score)

# %% [markdown]
# ## 3. Every head has a number
# The library has such a score, too. It also measures how much each head looks at the token before:

# %%
scores = gpt2np.analysis.heads.head_scores(model, n=n, repeats=2)
heads = [f"head {head}" for head in range(4)]
layers = [f"layer {layer}" for layer in range(4)]
for kind in ("induction", "previous"):
    table = scores.array[scores.labels["score"].index(kind)]
    title = f"{kind} score"
    lessons.show(lessons.heatmap(table, layers, heads, title, axes=("layer", "head"), percent=True))
    if kind == "induction":
        induction = table
    else:
        assert round(100 * table[0, 0]) == 98
assert np.round(100 * induction[1]).tolist() == [87, 83, 1, 85]
assert round(100 * induction[2, 2]) == 50

# %% [markdown]
# Three heads of layer 1 have 87 %, 83 % and 85 %. Head 2.2 has 50 %. Head 1.2, between them, has 1 %: it is
# no induction head. One head looks at the token before: 0.0, with 98 %.
#
# ## 4. Take one away
# A picture of attention is a correlation: the heads look at the right place while the model gets it right. Do
# they *cause* it? Take a head away, and see what is lost. The result of a head is its part of `z`, and `z` of
# layer 1 is the site `h.1.attn.z`, [pos, head, d_head]. With zeros there, the head says nothing, and nothing
# else changes.
#
# **Your turn.** Write the edits that take some heads away. Edits are a dict: the name of a site, and what is
# to be done to it, as in `{"h.3.mlp.out": zero()}`. `zero` takes away all of a site, and `zero(heads=2)`, or
# `zero(heads=[0, 2])`, some of its heads. Each site can be a key only once, also if two of its heads
# are to go.


# %%
def without(heads):
    """A list of (layer, head), such as [(1, 0), (1, 3)] -> a dict of edits for `model.trace`."""
    return lessons.todo


# %%
lessons.check("circuits.without", without)

# %% [markdown]
# Now the experiment. First each of the three heads alone, and then all of them together. What do you expect?


# %%
def loss_without(*heads):
    """The copying loss, if these heads say nothing: "1.0", "1.3"."""
    pairs = [tuple(map(int, name.split("."))) for name in heads]
    return round(float(copying_loss(model.trace(text, keep="logits", edits=take_away(pairs)))), 2)


take_away = lessons.or_ours("circuits.without", without)  # yours, as soon as it is right
losses = {}
for names in ("1.0", "1.1", "1.3", "1.0 1.1 1.3", "1.0 1.1 1.3 2.2"):
    losses[names] = loss_without(*names.split())
    print(f"without {names:16} {losses[names]:5.2f}")
assert list(losses.values()) == [0.15, 0.06, 0.06, 3.9, 8.91]

# %% [markdown]
# ## 5. Hardly anything happens
# Without 1.0 the loss is 0.15, many times 0.01, but far from the 11.91 of a text that is new. Without either
# of the others it is 0.06. The model still copies nearly perfectly. Is head 1.0 not the cause, then?
#
# It is, but not alone. Three heads do the same work, and any two are enough. With all three gone the loss is
# 3.90. Even then something is left: 2.2, one layer further up. Without that one too, it is 8.91, and copying
# is over.
#
# Remember this, if you ever read that a part of a network "does not matter" because hardly anything happened
# when it was taken away.
#
# **Try it alive:** a page where you switch heads off without a line of code is written by
# `gpt2np view --live "Lord Tamber spoke; and then Lord Tam" --show changes --layer 1 --head 0`.
# Open "Switch parts off" there. Which two heads of layer 1 must go, until `ber` is no more the first guess?
#
# ## 6. A head that never looks at a copy
# Now take away head 0.0. It looks at the token before, wherever it is. In the table of induction scores it
# has 0 %.

# %%
losses["0.0"] = loss_without("0.0")
print(f"without 0.0  {losses['0.0']:5.2f}")
broken = model.trace(text, edits={"h.0.attn.z": zero(heads=0)})
share = np.diagonal(broken["h.1.attn.pattern"][0, n:], 1).mean()
print(f"1.0 then gives {100 * share:.0f} % to the token after the twin")
assert losses["0.0"] == 9.21
assert round(100 * share) == 2

# %% [markdown]
# One head, and the loss is 9.21. It has no backup. Without 0.0, head 1.0 is blind: it gives 2 % to the token
# after the twin. So the induction heads need something that 0.0 has written. What?
#
# ## 7. The two matrices of a head
# A head does two things, and each of them is one matrix from the stream to the stream.
#
# - **QK** says where it looks. A query is a vector times `W_Q`, a key is a vector times `W_K`, and their
#   product is a score. So `W_Q` times the transpose of `W_K` is a matrix between two vectors of the stream:
#   one asks, one is asked.
# - **OV** says what it hands over. A value is a vector times `W_V`, and what the head writes is that times
#   `W_O`.
#
# Before it is read, each vector passes through LayerNorm, which multiplies each of its 192 numbers by a
# learned weight. This `scale` belongs to the reading, and so we put it into the matrices. (Biases, and the
# division by the square root of 48, stay outside.)
#
# **Your turn.** Two functions, a line each. The rows of the first are for the vector that asks, and its
# columns for the one that is asked. The rows of the second are for what is read, its columns for what is
# written.

# %%
print(lessons.inputs("circuits.qk"))


# %%
def qk(W_Q, W_K, scale):
    """W_Q, W_K [n_embd, d_head], scale [n_embd] -> [n_embd of the query, n_embd of the key]."""
    return lessons.todo


# %%
lessons.check("circuits.qk", qk)


# %%
def ov(W_V, W_O, scale):
    """W_V [n_embd, d_head], W_O [d_head, n_embd], scale [n_embd] -> [n_embd read, n_embd written]."""
    return lessons.todo


# %%
lessons.check("circuits.ov", ov)

# %% [markdown]
# What does head 0.0 look for? Feed its QK with nothing but *positions*: twelve rows of `wpe`, no words at
# all.


# %%
def normed(x):
    """Mean 0 and variance 1, as LayerNorm makes it before its learned weight."""
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + model.config.layer_norm_epsilon)


previous = circuits.folded_weights(model, 0, 0)  # W_Q and the others, with the scale in them
places = normed(model.parameters.wpe[:12])
products = (places @ previous.W_Q + previous.b_Q) @ (places @ previous.W_K + previous.b_K).T / np.sqrt(48)
e = np.exp(np.where(np.tri(12, dtype=bool), products - products.max(axis=1, keepdims=True), -np.inf))
by_place = e / e.sum(axis=1, keepdims=True)
numbers = [str(i) for i in range(12)]
seen = np.where(np.tri(12, dtype=bool), by_place, np.nan)
title = "head 0.0, from positions alone"
lessons.show(lessons.heatmap(seen, numbers, numbers, title, axes=axes, percent=True))
assert [round(100 * share) for share in np.diagonal(by_place, -1)] == [100] * 11
assert previous.W_Q.shape == (192, 48)

# %% [markdown]
# 100 %, in every row but the first, which has nothing before it. So positions suffice: its QK knows that 7
# comes before 8. That words make no difference at all is not shown here.
#
# ## 8. What one writes, another reads
# And what does it hand over? Its OV turns the token before into a vector that is added to the stream. Head
# 1.0 may find that vector in its *keys*. Here is a test that needs no text and no run. Take ten tokens. Row:
# a token that asks, through the queries of 1.0. Column: what 0.0 writes after it has looked at a token,
# through the keys of 1.0. If the story is true, the diagonal must be larger than the rest on average. The
# same for head 1.2, which is no induction head.

# %%
words = model.token_ids(L)[:10]
E = normed(model.parameters.wte[words])
named = model.tokens(words)
written = E @ previous.ov  # by head 0.0, one row for each token that it looks at
ahead = {}
for head in (0, 2):
    reader = circuits.folded_weights(model, 1, head)
    table = (E @ reader.W_Q + reader.b_Q) @ (written @ reader.W_K).T / np.sqrt(48)
    title = f"head 1.{head}: who was before you?"
    lessons.show(lessons.heatmap(table, named, named, title, axes=("who asks", "what 0.0 has seen")))
    own = np.diagonal(table)
    ahead[head] = round(float(own.mean() - table.mean()), 1)
    best = int((table.argmax(axis=1) == np.arange(10)).sum())
    print(f"diagonal {ahead[head]:.1f} above the mean; {best} of 10 tokens find themselves")
assert ahead == {0: 4.2, 2: 0.1}

# %% [markdown]
# For head 1.0 the diagonal lies 4.2 above the mean, though not every token finds itself: words are all that
# is compared here. For 1.2 it is 0.1: nothing. The `am` that asks "who has an `am` before it?" gets its
# answer from a vector that 0.0 has written. One head's output is another head's key. This is called
# **K-composition**.
#
# ## 9. Follow the path
# It could still be that 0.0 does its work in another way. So cut one path at a time. Everything in the run
# stays as it was. Only what 0.0 says is taken away, and only on its way into one thing: the queries, the keys
# or the values of layer 1. The number is the probability of the right token after all 40 have been said
# again.

# %%
first = half[0]


def p_right(logits):
    """The probability of the token that comes next."""
    e = np.exp(logits - logits.max())
    return float(e[first] / e.sum())


print(f"as it is              {p_right(clean['logits'][-1]):.4f}")
print(f"without 0.0           {p_right(broken['logits'][-1]):.4f}")
cut = {}
for part, name in (("q", "queries"), ("k", "keys"), ("v", "values")):
    cut[part] = path_patch(broken, clean, p_right, "h.0.attn.z", f"h.1.attn.{part}", sender_heads=0)
    print(f"0.0 not in the {name:7} {cut[part]:.4f}")
assert [round(p, 4) for p in cut.values()] == [0.9995, 0.126, 0.9998]
assert [round(p_right(run["logits"][-1]), 4) for run in (clean, broken)] == [0.9992, 0.0001]

# %% [markdown]
# Without the path into the keys, 0.9992 falls to 0.1260. Without the path into queries or values, next to
# nothing changes. So most of what 0.0 does for copying goes through the keys of layer 1. Not all of it:
# without 0.0 altogether, 0.0001 is left and not 0.1260. Paths into other layers have not been cut here.
#
# ## 10. Do not trust a shortcut
# There is a quicker way to look for such paths, often seen: compare the matrices. How much of what one head
# can write can another one read, in its keys? No text is needed, and one number for each pair comes out.

# %%
composition = circuits.composition_scores(model, "k")
for (writer, reader), score in composition.largest(3):
    print(f"{writer} -> {reader}: {score:.2f}")
into = {f"1.{head}": composition.array[0, 4 + head] for head in range(4)}
print("0.0 ->", ", ".join(f"{reader}: {score:.2f}" for reader, score in into.items()))
assert composition.largest(1)[0][0] == ("1.2", "2.0")
assert round(composition.largest(1)[0][1], 2) == 0.35
assert [round(score, 2) for score in into.values()] == [0.13, 0.13, 0.04, 0.13]

# %% [markdown]
# It points at 1.2 and 2.0, with 0.35. The path that we have cut has 0.13. Within layer 1 the scores do tell
# the induction heads, 0.13, from head 1.2, 0.04; among all pairs they mislead. Such scores ask what a head
# *could* read. What it does read depends on what is really in the stream. Use them for a guess, never for a
# proof.
#
# ## Break it
# Bring the copying loss above 8 with as few heads as possible. You know one way: 0.0, and a single head. Now
# do it without touching layer 0. The four induction heads are one way. Is there one with three? Change the
# list.

# %%
for names in ("0.0", "1.0 1.1 1.3 2.2"):
    losses[names] = losses.get(names) or loss_without(*names.split())
    print(f"without {names:16} {losses[names]:5.2f}")

# %% [markdown]
# Have you found one? Any head of layers 1 to 3 may be among them, not only those that copy. The next cell has
# an answer: try before you run it.

# %%
for names in ("1.2", "1.0 1.2 1.3"):
    losses[names] = loss_without(*names.split())
    print(f"without {names:16} {losses[names]:5.2f}")
assert [losses["1.2"], losses["1.0 1.2 1.3"]] == [2.23, 9.28]

# %% [markdown]
# Three will do: 1.0, 1.2 and 1.3 give 9.28. But 1.2 is no induction head. It has no stripe, and it does not
# read what 0.0 writes. Alone it costs 2.23, far more than any of the three that copy. What is it for? We do
# not know. The scores of part 10 say that layer 2 could read much of what it writes. If you find out, tell
# us. A lesson may end with an open question.
#
# ## The real GPT-2
# The same score for the 144 heads of GPT-2 small. Its best known induction heads are 5.1, 5.5, 6.9 and 7.10.
# The head that looks at the token before is 4.11.

# %%
if lessons.available("gpt2"):
    gpt2 = gpt2np.load("gpt2")
    found = gpt2np.analysis.heads.head_scores(gpt2, n=50, repeats=1)
    for (kind, layer, head), score in found.largest(40):
        if kind in ("induction", "previous") and score > 0.8:
            print(f"{kind:10} {layer}.{head} {score:.2f}")
else:
    print("GPT-2 is not in the cache; `gpt2np download gpt2` gets it (550 MB), and this cell finds its heads")
