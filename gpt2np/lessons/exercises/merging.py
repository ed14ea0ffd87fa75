"""Ways to join the letters of a word to tokens: the right one, and wrong ones."""

import functools
import itertools
from collections import Counter
from collections.abc import Callable

from gpt2np.errors import InputError
from gpt2np.model import Model

Pair = tuple[str, str]
Ranks = dict[Pair, int]


@functools.lru_cache(maxsize=2)
def ranks_of(model: Model) -> Ranks:
    """The lines of merges.txt: each pair, and its number from 0."""
    ranks, tokenizer = Ranks(), model.tokenizer
    if tokenizer is None:
        raise InputError("tokens.merge needs a model with a tokenizer")
    for id in range(tokenizer.n_vocab):
        if joins := tokenizer.merges(id):
            halves = joins[-2].pieces if len(joins) > 1 else list(joins[-1].pieces[0])
            ranks[halves[0], halves[1]] = joins[-1].number - 1
    return ranks


def joined(symbols: list[str], pair: Pair) -> list[str]:
    """Every copy of a pair as one symbol, from the left."""
    made: list[str] = []
    rest = list(symbols)
    while rest:
        n = 2 if tuple(rest[:2]) == pair else 1
        made.append("".join(rest[:n]))
        del rest[:n]
    return made


Choice = Callable[[list[Pair], Ranks], Pair]


def by(choice: Choice, once: bool = False) -> Callable[[list[str], Ranks], list[str]]:
    """Merging the pair that is chosen among those that have a rank."""

    def merge(symbols: list[str], ranks: Ranks) -> list[str]:
        symbols = list(symbols)
        while possible := [pair for pair in itertools.pairwise(symbols) if pair in ranks]:
            symbols = joined(symbols, choice(possible, ranks))
            if once:
                break
        return symbols

    return merge


def lowest(pairs: list[Pair], ranks: Ranks) -> Pair:
    """The pair that was learned first."""
    return min(pairs, key=ranks.__getitem__)


def highest(pairs: list[Pair], ranks: Ranks) -> Pair:
    """The pair that was learned last."""
    return max(pairs, key=ranks.__getitem__)


def most_frequent(pairs: list[Pair], ranks: Ranks) -> Pair:
    """The pair that the word has most often."""
    return Counter(pairs).most_common(1)[0][0]


def first_pair(pairs: list[Pair], ranks: Ranks) -> Pair:
    """The pair that stands first."""
    return pairs[0]


def leftmost(symbols: list[str], ranks: Ranks) -> list[str]:
    """The leftmost pair with a rank, again and again: one copy at a time."""
    symbols = list(symbols)
    while places := [i for i, pair in enumerate(itertools.pairwise(symbols)) if pair in ranks]:
        symbols[places[0] : places[0] + 2] = ["".join(symbols[places[0] : places[0] + 2])]
    return symbols


def one_pass(symbols: list[str], ranks: Ranks) -> list[str]:
    """Pairs with a rank, from the left, each symbol used once."""
    made, rest = list[str](), list(symbols)
    while rest:
        n = 2 if tuple(rest[:2]) in ranks else 1
        made.append("".join(rest[:n]))
        del rest[:n]
    return made


def passes(symbols: list[str], ranks: Ranks) -> list[str]:
    """The same, until nothing changes."""
    while (made := one_pass(symbols, ranks)) != symbols:
        symbols = made
    return made


def growing(symbols: list[str], ranks: Ranks) -> list[str]:
    """The last token takes the next symbol in, if it can."""
    made: list[str] = []
    for symbol in symbols:
        if made and (made[-1], symbol) in ranks:
            made[-1] += symbol
        else:
            made.append(symbol)
    return made


def longest_match(symbols: list[str], ranks: Ranks) -> list[str]:
    """The longest token of the vocabulary that the rest begins with."""
    known, rest, made = {"".join(pair) for pair in ranks}, "".join(symbols), list[str]()
    while rest:
        n = next((n for n in range(len(rest), 1, -1) if rest[:n] in known), 1)
        made.append(rest[:n])
        rest = rest[n:]
    return made


def from_the_right(symbols: list[str], ranks: Ranks) -> list[str]:
    """The lowest rank first, but the copies of a pair from the right."""
    symbols = list(symbols)
    while possible := [pair for pair in itertools.pairwise(symbols) if pair in ranks]:
        first, second = lowest(possible, ranks)
        turned = joined([symbol[::-1] for symbol in reversed(symbols)], (second[::-1], first[::-1]))
        symbols = [symbol[::-1] for symbol in reversed(turned)]
    return symbols


def as_text(symbols: list[str], ranks: Ranks) -> list[str]:
    """The lowest rank first, by replacing in a text: a pair is found inside of longer tokens, too."""
    symbols = list(symbols)
    while possible := [pair for pair in itertools.pairwise(symbols) if pair in ranks]:
        first, second = lowest(possible, ranks)
        symbols = " ".join(symbols).replace(f"{first} {second}", first + second).split(" ")
    return symbols


def unknown_too(symbols: list[str], ranks: Ranks) -> list[str]:
    """All symbols as one, whether they are in the list or not."""
    return ["".join(symbols)]
