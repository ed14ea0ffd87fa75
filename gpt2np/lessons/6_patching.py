# %% [markdown]
# # 6. Who said "she"? Patching and steering
# minutes: 50
#
# **Question: how do you get from "this head looks at the right word" to "this head is the cause"?**
#
# You need lesson 4; lesson 5 helps. There you took heads away. Here you do something finer: you give one part
# of a run what it had in *another* run, and see how much of the answer comes with it.

# %%
import re

import numpy as np

import gpt2np
from gpt2np import lessons
from gpt2np.analysis import patching
from gpt2np.analysis.interventions import patch, steer, zero

model = gpt2np.load("tiny", dtype="float64")
he, she = (model.token_ids(word)[0] for word in (" he", " she"))


def margin(logits):
    """The logit of " he" less that of " she", at the last position."""
    return float(logits[he] - logits[she])


father = model.trace("Her father was so angry that")
mother = model.trace("Her mother was so angry that")
for run in (father, mother):
    said = ", ".join(f"{token!r} {p:.2f}" for token, _, p in run.top(2))
    print(f"{''.join(run.tokens)}: margin {margin(run['logits'][-1]):5.2f}; {said}")

clean, corrupt = margin(father["logits"][-1]), margin(mother["logits"][-1])
assert [round(x, 2) for x in (clean, corrupt)] == [-0.26, -2.33]

# %% [markdown]
# ## 1. One word apart
# Two texts, and they differ in one word. After "Her father was so angry that" the model is undecided: the
# logit of ` he` is 0.26 below that of ` she`. After "Her mother ..." it is 2.33 below. Somewhere in the
# model, a father has become a reason to say "he". Where?
#
# **Try it alive:** `gpt2np view --live "Her father was so angry that" --show changes --pos 1` opens a page
# that runs the model as you type. Swap ` father` for ` mother`: which positions move at all, and how far
# does the last one move after each layer?
#
# Call the first run *clean*, and the second one *corrupt*. We run the corrupt text, and **patch** one thing
# in from the clean run. If the margin goes from -2.33 up to -0.26, this thing carried the difference.
#
# ## 2. Where is the word kept?
# First patch the whole stream, at one position, after one block. One such run by hand: `edits` is a dict from
# the name of a site to what is to happen there, and `patch(trace)` puts in what that trace has at the same
# site. It can be restricted to some `positions=` or, at sites that have heads, to some `heads=`. Position 1
# is the noun:

# %%
edits = {"h.1.resid_post": patch(father, positions=1)}
by_hand = margin(model.trace(mother.token_ids, edits=edits)["logits"][-1])
print(f"with the noun's stream after block 1 from the other run: margin {by_hand:.1f}")
assert round(by_hand, 1) == -0.3

# %% [markdown]
# Now do so for every block and every position. That is 4 times 8 runs. `sweep` does them, and gives the
# margin of each.

# %%
swept = patching.sweep(father, mother, margin, over="h.*.resid_post", progress=False).array
layers = [f"block {i}" for i in range(4)]
words = ["father", *father.tokens[2:]]
title, axes = "margin, with the stream patched", ("patched after", "patched at")
lessons.show(lessons.heatmap(swept, layers, ["Her", *words], title, axes=axes))
assert np.round([swept[0, 1], swept[1, 1], swept[2, 1], swept[3, 7]], 1).tolist() == [-0.3, -0.3, -0.5, -0.3]
assert round(swept[2, 7], 1) == -2.0

# %% [markdown]
# A clear picture. After blocks 0 and 1 everything is in the stream of the word itself: patch that one
# position, and the margin is back at -0.3. After block 2 it is mostly still there, with -0.5, and a little
# has arrived at the last word, where it is -2.0. After block 3 it is at the last word, all of it. So
# something in block 3 fetches it.
#
# Only attention can move anything from one position to another. So it must be a head.
#
# ## 3. Which head?
# **Your turn.** Write the edits that give one head of the corrupt run what it had in the clean run, at every
# position. What the heads of layer 3 gather is at the site `h.3.attn.z` [pos, head, d_head]. Position 3 gets
# what position 3 had in the other run, which makes sense only if the two texts have the same number of
# tokens. Raise a `ValueError` if they have not (`trace.tokens` is the list of tokens).


# %%
def patched(clean, corrupt, layer, head):
    """Two traces, a layer and one of its heads -> a dict of edits for a run of the corrupt text."""
    return lessons.todo


# %%
lessons.check("patching.patched", patched)

# %% [markdown]
# Here are all sixteen heads, patched one at a time. (`sweep` does what your function does, for every head.)

# %%
by_head = patching.sweep(father, mother, margin, progress=False).array
layers, heads = ([f"{what} {i}" for i in range(4)] for what in ("layer", "head"))
axes = ("layer", "head")
lessons.show(lessons.heatmap(by_head, layers, heads, "margin, with a head patched", axes=axes))
assert np.round([by_head[3, 0], by_head[0, 3], by_head[0, 2]], 1).tolist() == [-0.6, -0.9, -1.6]

# %% [markdown]
# One head of the last layer stands out: 3.0 brings the margin to -0.6. Two heads of layer 0 matter as well,
# 0.3 with -0.9 and 0.2 with -1.6. Keep them in mind.
#
# **Your turn.** -0.6 is a number that depends on this text. Turn such numbers into a share: 0 if a patch does
# nothing, and 1 if it brings back the whole difference.


# %%
def recovered(patched, clean, corrupt):
    """patched [layer, head] and two numbers: the margins -> [layer, head], a share of the difference."""
    return lessons.todo


# %%
lessons.check("patching.recovered", recovered)

# %% [markdown]
# ## 4. What does it look at?
# Head 3.0, at the last word of the clean text:

# %%
row = father["h.3.attn.pattern"][0, -1]
lessons.show(lessons.bars(row, list(father.tokens), "head 3.0 at the last word", percent=True))
share = lessons.or_ours("patching.recovered", recovered)(by_head, clean, corrupt)[3, 0]
print(f"3.0 brings back {100 * share:.0f} % of the difference")
assert [round(100 * x) for x in row[:2]] == [51, 41]
assert round(100 * share) == 82

# %% [markdown]
# 51 % for "Her", 41 % for "father", and hardly anything for the rest. It looks at the people in the text.
# Patching it brings back 82 % of the difference.
#
# ## 5. Does it speak for itself?
# A head of the last layer can still work in two ways. It writes to the stream, and the logits read that: the
# direct way. Or the MLP behind it makes something of it. `sweep(..., direct=True)` changes what the head
# itself adds at the end, and leaves all else as it was.

# %%
direct = patching.sweep(father, mother, margin, direct=True, progress=False).array
print(f"3.0, directly: {direct[3, 0]:.2f}; all others: {np.delete(direct.ravel(), 12).max():.2f} at most")
assert round(direct[3, 0], 2) == 0.15
assert round(np.delete(direct.ravel(), 12).max(), 2) == -1.89

# %% [markdown]
# Directly, 3.0 brings the margin to 0.15: beyond the clean one. No other head gets above -1.89. So 3.0 says
# "he" itself. With the MLP behind it the margin was -0.6: the MLP takes a part of it back.
#
# ## 6. Who tells it?
# 3.0 reads values at the position of the noun. Somebody must have put there what it reads. The same sweep,
# but each head is patched on its way *into the values of 3.0* and nowhere else:

# %%
into = patching.path_sweep(father, mother, margin, "h.3.attn.v", receiver_heads=0, progress=False).array
title = "margin, path into the values of 3.0"
lessons.show(lessons.heatmap(into, layers[:3], heads, title, axes=axes))
assert np.round([into[0, 3], into[0, 2]], 1).tolist() == [-1.7, -1.9]
assert np.delete(into.ravel(), [2, 3]).max() < -2.3

# %% [markdown]
# 0.3 with -1.7 and 0.2 with -1.9, each a part of the way, and no other head at all. Lesson 3 has met these
# two: they look at the word itself, and at hardly anything else. So they carry nothing from one word to
# another. They add to a word something that they make of that word, as an MLP does, and 3.0 carries it to
# where it is needed.
#
# ## 7. Is it only this sentence?
# One sentence is an anecdote. So take 20 nouns and 2 sentences, 40 texts in all, and count how often the
# margin has the right sign: "he" after a man, "she" after a woman. Then take head 3.0 away.

# %%
MEN = "father brother husband son uncle king duke prince lord gentleman".split()
WOMEN = "mother sister wife daughter aunt queen lady woman girl maid".split()
SENTENCES = ("The {} was so angry that", "My {} said that")


def margins(edits):
    """The margin of each text, so that above 0 is right."""
    texts = [sentence.format(noun) for noun in (*MEN, *WOMEN) for sentence in SENTENCES]
    signs = np.repeat([1, -1], len(texts) // 2)
    runs = model.trace(texts, keep="logits", edits=edits)  # all of them at once
    return signs * [margin(run["logits"][-1]) for run in runs]


without_30 = {"h.3.attn.z": zero(heads=0)}
counts = {}
for name, edits in (("as it is", {}), ("without 3.0", without_30)):
    m = margins(edits)
    counts[name] = int((m > 0).sum()), round(float(m.mean()), 2)
    print(f"{name:12} {counts[name][0]} of {len(m)} right, mean margin {counts[name][1]:.2f}")

L = "Lord Tamber spoke; and then Lord Tam"
(_, _, before), *_ = model.trace(L).top(1)
(token, _, after), *_ = model.trace(L, edits=without_30).top(1)
print(f"{L!r}: {token!r} {before:.3f}, without 3.0 {after:.3f}")
assert counts == {"as it is": (37, 1.31), "without 3.0": (28, 0.28)}
assert len(m) == 2 * len({*MEN, *WOMEN}) == 2 * 20 == 40
assert [round(p, 3) for p in (before, after)] == [0.976, 0.99]

# %% [markdown]
# With 3.0, 37 of 40 are right; without it 28, and the mean margin falls from 1.31 to 0.28. So it was not only
# our example. And it is not simply that a model without 3.0 is a bad model: our sentence of lesson 3 still
# ends in `ber`, even more surely: 0.990 instead of 0.976.
#
# ## 8. Another question, another way
# Is 3.0 the model's idea of men and women, then? Change the text, and what is asked: the king speaks to a
# lord, or to a lady. The margin is now the logit of ` lord` less that of ` lady`.

# %%
lord, lady = (model.token_ids(word)[0] for word in (" lord", " lady"))
to_lord = model.trace("You are my lord, said the king; my")
to_lady = model.trace("You are my lady, said the king; my")


def title(logits):
    """The logit of " lord" less that of " lady"."""
    return float(logits[lord] - logits[lady])


print(f"margins: {title(to_lord['logits'][-1]):.2f} and {title(to_lady['logits'][-1]):.2f}")
other = patching.sweep(to_lord, to_lady, title, progress=False).array
lessons.show(lessons.heatmap(other, layers, heads, "margin of lord, with a head patched", axes=axes))
assert [round(title(run["logits"][-1]), 2) for run in (to_lord, to_lady)] == [3.56, 0.36]
assert np.round([other[3, 0], other[2, 2], other[0, 2], other[0, 3]], 1).tolist() == [0.6, 1.9, 2.2, 2.1]

# %% [markdown]
# The margins are 3.56 and 0.36. Now 3.0 brings back hardly anything: 0.6. After layer 0, the head that
# matters most is 2.2, with 1.9: the fourth of the induction heads of lesson 5. The two in layer 0 are the
# same as before, with 2.2 and 2.1. A circuit answers a question, not a topic.
#
# ## 9. Push
# So far you have moved what the model itself had computed. You can also add something of your own. The model
# has read novels by Jane Austen, and plays by Shakespeare. In which direction of the stream do they differ?
#
# **Your turn.** You get the streams of two kinds of texts, after block 1. Average each text over its
# positions, but leave out position 0: it is like no other, and nearly twice as long. Then average the texts
# of each kind, and subtract the mean of the second kind from that of the first.

# %%
AUSTEN = (
    "She was not at all sorry to go.",
    "He had been very agreeable to her family.",
    "Elinor could not help smiling at his manner.",
    "They were all to dine together at the Park.",
    "Her sister was delighted with the house.",
)
SHAKESPEARE = (
    "Thou art a villain, and I hate thee.",
    "O, what a noble king is fallen here!",
    "My lord, the enemy is at the gates.",
    "Good night, sweet prince, and fare thee well.",
    "I prithee, tell me where the duke is gone.",
)
streams = {}
for name, texts in (("a", AUSTEN), ("s", SHAKESPEARE)):
    streams[name] = [run["h.1.resid_post"] for run in model.trace(list(texts), keep="h.1.resid_post")]
lengths = np.linalg.norm(streams["a"][0], axis=1)
print("lengths of the vectors of one text:", *(f"{length:.0f}" for length in lengths))
assert lengths[0] > 1.6 * lengths[1:].max()


# %%
def direction(runs_a, runs_b):
    """Two lists of arrays [pos, n_embd], one for each text -> [n_embd], from the second kind to the first."""
    return lessons.todo


# %%
lessons.check("patching.direction", direction)

# %% [markdown]
# Now add this vector to the stream at every position, and let the model write. A minus sign points to
# Shakespeare. In how many of ten texts is there a mark of a play: an old word, or a speaker's name with a
# colon? Beside it stands what a random vector of the same length does. Without that, you could not know
# whether any push would do.

# %%
style = lessons.or_ours("patching.direction", direction)(
    streams["a"], streams["s"]
)  # yours, once it is right
noise = np.random.default_rng(0).normal(size=style.size)
noise *= np.linalg.norm(style) / np.linalg.norm(noise)
MARKS = re.compile(r"\b([Tt]hou|[Tt]hee|[Tt]h[yi]ne?|hath|doth|wilt|shalt|art|ye|prithee|[Ss]ir)\b|:\n")


def pushed(vector, factor):
    """Edits that add a vector after block 1."""
    return {"h.1.resid_post": steer(vector, factor)} if factor else {}


marked = {}
for name, vector, factor in (("plain", style, 0), ("Shakespeare", style, -1), ("random", noise, -1)):
    options = {"temperature": 0.8, "max_new_tokens": 16, "edits": pushed(vector, factor)}
    texts = [model.generate("She was", seed=seed, **options).finish().text for seed in range(10)]
    marked[name] = sum(bool(MARKS.search(text)) for text in texts)
    print(f"{name:11} {marked[name]:2} of 10, such as {texts[0]!r}")

SENTENCES_OF = (
    ("Austen", "Elinor was so well convinced of his affection that she could not be sorry."),
    ("Shakespeare", "What means this, my lord? Speak, I pray thee, for the night is dark."),
)
losses = {}
for name, vector, factor in (("plain", style, 0), ("Shakespeare", style, -1), ("random", noise, -1)):
    losses[name] = [
        round(model.score(text, edits=pushed(vector, factor)).loss, 2) for _, text in SENTENCES_OF
    ]
    print(
        f"{name:11} loss of a sentence by Austen {losses[name][0]:.2f}, by Shakespeare {losses[name][1]:.2f}"
    )
assert marked == {"plain": 0, "Shakespeare": 7, "random": 0}
assert losses == {"plain": [2.64, 3.29], "Shakespeare": [3.19, 3.43], "random": [2.96, 3.22]}

# %% [markdown]
# 7 of 10 texts have a mark of a play. Without the push there was none, and with the random vector there is
# none. The push works, and it is not just any push. But look at the losses. Pushed to Shakespeare, Austen's
# sentence gets worse, 3.19 instead of 2.64: good. Yet Shakespeare's own sentence gets no better: 3.43 instead
# of 3.29. The push makes the model *talk* like a play. It does not make it understand plays better. A count
# of marks alone would not have told you.
#
# ## 10. What patching cannot say
# - It compares *two* texts. What they share is invisible. Both have "Her", and 3.0 gives it more attention
#   than the noun; no patch above has shown what that does.
# - A part that brings back nothing may have a backup, as in lesson 5. A part that brings back a lot may only
#   pass on what others have found.
# - It says which part carries a difference. It does not say what the part computes. For that you have to
#   look: at what it reads, and at what it writes.
#
# ## Break it
# Make the model wrong. "Her" is in both of our texts. What if it disagrees with the noun? "Her uncle": a man,
# of a woman. "His aunt": a woman, of a man. For each of the four texts below, is the margin above 0 or below
# it? Guess, then run it. Then one word of "Her uncle" is exchanged in the stream: which one changes more?

# %%
wrong = {}
for text in ("Her uncle said that", "His uncle said that", "Her aunt said that", "His aunt said that"):
    run = model.trace(text, keep=["logits", "h.3.attn.pattern"])
    wrong[text] = round(margin(run["logits"][-1]), 2)
    shares = run["h.3.attn.pattern"][0, -1, :2]
    looks = ", ".join(
        f"{word} {100 * share:.0f} %" for word, share in zip(text.split(), shares, strict=False)
    )
    print(f"{text}: margin {wrong[text]:5.2f}; 3.0 gives {looks}")
uncle, aunt = model.trace("Her uncle said that"), model.trace("His aunt said that")
swaps = patching.sweep(aunt, uncle, margin, over="h.0.resid_post", progress=False).array[0]
for word, value in zip(("His for Her", "aunt for uncle"), swaps, strict=False):
    print(f"Her uncle said that, with {word} after block 0: margin {value:5.2f}")
assert list(wrong.values()) == [-0.82, 1.91, -1.67, 0.43]
assert np.round(swaps[:2], 2).tolist() == [2.06, -1.47]

# %% [markdown]
# Of an uncle of hers the model says "she", with -0.82, and of an aunt of his "he", with 0.43. It believes the
# first word more than the noun. The patches say so, too: change "Her" to "His" in the stream, and the margin
# is 2.06; change the uncle to an aunt, and it is -1.47. Can you find a sentence in which the noun wins?
#
# ## The real GPT-2
# GPT-2 small has a famous circuit for a question like ours: who gets the drink? Its heads 9.9, 9.6 and 10.0
# say the name. If GPT-2 is in your cache, this cell patches all of its 144 heads.

# %%
if lessons.available("gpt2"):
    gpt2 = gpt2np.load("gpt2")
    n = len(gpt2.token_ids(" Mary"))  # count your tokens
    other = next(name for name in (" Anna", " Jane", " Kate", " Mary") if len(gpt2.token_ids(name)) == n)
    ends = " and John went to the store, John gave a drink to"
    to_mary, to_other = (gpt2.trace(f"When{name}{ends}") for name in (" Mary", other))
    mary, she = (gpt2.token_ids(name)[0] for name in (" Mary", other))
    found = patching.sweep(to_mary, to_other, patching.logit_difference(mary, she), progress=False)
    for (layer, head), value in found.largest(5):
        print(f"head {layer}.{head}: {value:.2f}")
else:
    print(
        "GPT-2 is not in the cache; `gpt2np download gpt2` gets it (550 MB), and this cell patches its heads"
    )
