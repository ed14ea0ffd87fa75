"""Which prompts share their beginning: that is run once, and its keys and values serve them all."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from gpt2np.ops import Array

LEAST = 8  # tokens of a beginning that is worth a sequence of its own


class Group(NamedTuple):
    """Prompts, by number, whose first `length` tokens are the same; a length of 0: those that share nothing.

    Each of them has at least one token more.
    """

    length: int
    prompts: tuple[int, ...]


class _Subtree(NamedTuple):
    """Prompts that begin alike: the best groups of them, and how many tokens these save."""

    prompts: tuple[int, ...]
    saved: int
    groups: tuple[Group, ...]


def shared_beginnings(prompts: Sequence[Array], least: int = LEAST) -> list[Group]:
    """Return groups of prompts that share their beginnings, each prompt in one group, in order of prompts.

    They are chosen from the longest beginnings to the shortest, a shorter one where it saves more; all of
    them save at least as many tokens as any one group would. The last group, of length 0, holds the prompts
    that share nothing, unless there are none.

    Example:
        >>> few_shot = [5, 6, 7, 8, 9, 10, 11, 12]
        >>> shared_beginnings([np.array([*few_shot, 1]), np.array([3]), np.array([*few_shot, 2, 2])])
        [Group(length=8, prompts=(0, 2)), Group(length=0, prompts=(1,))]
    """
    order = sorted(range(len(prompts)), key=lambda i: prompts[i].astype(">i4").tobytes())
    common = [_common(prompts[i], prompts[j]) for i, j in pairwise(order)]
    found = _best(order, common, least)
    grouped = {i for group in found for i in group.prompts}
    groups = sorted(found, key=lambda group: group.prompts[0])
    alone = tuple(i for i in range(len(prompts)) if i not in grouped)
    return [*groups, Group(0, alone)] if alone else groups


def _common(a: Array, b: Array) -> int:
    """How many tokens two prompts share before the last one of either."""
    n = min(len(a), len(b)) - 1
    differs = np.flatnonzero(a[:n] != b[:n])
    return int(differs[0]) if len(differs) else n


def _best(order: list[int], common: list[int], least: int) -> tuple[Group, ...]:
    """The groups of sorted prompts, by what each shares with the next one: the tree of their beginnings.

    A place of the tree is where prompts part; the stack has those that the prompt at hand is in, with the
    subtrees that are finished.
    """
    if not order:
        return ()
    stack: list[tuple[int, list[_Subtree]]] = [(0, [])]
    for i, depth in zip(order, [*common, 0], strict=True):
        subtree = _Subtree((i,), 0, ())
        while stack[-1][0] > depth:
            at, subtrees = stack.pop()
            subtree = _joined(at, [*subtrees, subtree], least)
        if stack[-1][0] < depth:
            stack.append((depth, [subtree]))
        else:
            stack[-1][1].append(subtree)
    (_, subtrees), *deeper = stack
    assert not deeper
    return tuple(group for subtree in subtrees for group in subtree.groups)


def _joined(depth: int, subtrees: list[_Subtree], least: int) -> _Subtree:
    """Prompts that part behind `depth` tokens: those subtrees share these that save more by that."""
    prompts = tuple(i for subtree in subtrees for i in subtree.prompts)
    apart = _Subtree(
        prompts,
        sum(subtree.saved for subtree in subtrees),
        tuple(group for subtree in subtrees for group in subtree.groups),
    )
    if depth < least:
        return apart
    joins = [len(subtree.prompts) * depth > subtree.saved for subtree in subtrees]
    members = sorted(
        i for subtree, joined in zip(subtrees, joins, strict=True) if joined for i in subtree.prompts
    )
    others = [subtree for subtree, joined in zip(subtrees, joins, strict=True) if not joined]
    saved = (len(members) - 1) * depth + sum(subtree.saved for subtree in others)
    if len(members) < 2 or saved <= apart.saved:
        return apart
    groups = (Group(depth, tuple(members)), *(group for subtree in others for group in subtree.groups))
    return _Subtree(prompts, saved, groups)
