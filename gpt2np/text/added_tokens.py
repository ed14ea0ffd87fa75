"""Tokens that merges do not make, such as `<|endoftext|>`: which ones a checkpoint's files declare."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpt2np.errors import TokenizerError, short
from gpt2np.text.vocabulary import Vocabulary, checked_id, field_of

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")  # in the order in which HF numbers new ones


@dataclass(frozen=True)
class AddedToken:
    """A token that merges do not make: matched as a whole, before the text is cut into words.

    `lstrip` and `rstrip` let it swallow the white space on that side, `single_word` keeps it from matching
    inside a word, `normalized` tokens are looked for after all others, `special` ones only on request.
    """

    text: str
    id: int
    special: bool
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


Entry = tuple[Path, dict[str, Any]]  # the file that declares a token, and what it says: content, id, flags


def declared(files: dict[str, tuple[Path, dict[str, Any]]]) -> Iterator[tuple[Path, AddedToken]]:
    """What added_tokens.json, tokenizer.json and tokenizer_config.json declare; the last word counts.

    `files` maps these names to the file and its content, empty where it is missing.

    Raises:
        TokenizerError: an entry is no added token; it names the file.
    """
    (plain_file, plain), (whole_file, whole), (config_file, config) = (
        files[name] for name in ("added_tokens", "tokenizer", "tokenizer_config")
    )
    special = {entry["content"] for _, entry in named(config_file, config).values()}
    for text, id in plain.items():
        yield plain_file, added_token(plain_file, {"content": text, "id": id, "special": text in special})
    for entry in field_of(whole_file, whole, "added_tokens", list):
        yield whole_file, added_token(whole_file, entry)
    for key, entry in field_of(config_file, config, "added_tokens_decoder", dict).items():
        id = int(key) if key.isascii() and key.isdigit() and len(key) < 12 else key
        yield config_file, added_token(config_file, {**entry, "id": id} if isinstance(entry, dict) else entry)


def named(file: Path, config: dict[str, Any]) -> dict[str, Entry]:
    """The special tokens that a tokenizer_config.json names, by their names, without ids.

    Raises:
        TokenizerError: one is neither a text nor an object with `content`.
    """
    roles = [f"{role}_token" for role in ROLES]
    roles += [k for k, v in config.items() if k.endswith("_token") and k not in roles and _is_token(v)]
    found = {role: config[role] for role in roles if config.get(role) is not None}
    for key in ("extra_special_tokens", "additional_special_tokens"):
        value = config.get(key) or []
        if not isinstance(value, list | dict):
            raise TokenizerError(f"{file}: {key} must be a list, not {type(value).__name__}")
        found |= value if isinstance(value, dict) else {f"{key}[{i}]": v for i, v in enumerate(value)}
    entries = {}
    for role, value in found.items():
        if not _is_token(value):
            raise TokenizerError(f"{file}: {role} is {short(value)}, expected a token's text")
        entry = {"content": value} if isinstance(value, str) else value
        entries[role] = (file, {**entry, "special": True})
    return entries


def _is_token(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("content"), str))


def added_token(file: Path, entry: object) -> AddedToken:
    """A token as a file declares it.

    Raises:
        TokenizerError: it has no text or no id.
    """
    text = entry.get("content") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(text, str):
        raise TokenizerError(f"{file}: {short(entry)} is no added token: an object with content and id")
    flags = {name: bool(entry.get(name)) for name in ("special", "lstrip", "rstrip", "single_word")}
    normalized = bool(entry.get("normalized", not flags["special"]))
    return AddedToken(text, checked_id(file, text, entry.get("id")), **flags, normalized=normalized)


def added_tokens(
    vocabulary: Vocabulary,
    tokens: Iterable[tuple[Path, AddedToken]],
    special: dict[str, Entry],
    every_piece: bool,
) -> dict[str, AddedToken]:
    """All added tokens by their texts: those declared, and those that are only named and get the next ids.

    With `every_piece` also the pieces that no merge makes, which a vocab.json alone does not declare.

    Raises:
        TokenizerError: two tokens have one id, or one has two.
    """
    ids, owner = dict(vocabulary.ids), {id: text for text, id in vocabulary.ids.items()}
    pieces = [text for text in ids if text not in vocabulary.made] if every_piece else []
    added = {text: AddedToken(text, ids[text], special=True) for text in pieces}
    names = {entry["content"] for _, entry in special.values()}
    for file, token in tokens:
        text, id = token.text, token.id
        if ids.setdefault(text, id) != id:
            raise TokenizerError(f"{file}: {short(text)} has id {id}, but {ids[text]} elsewhere")
        if owner.setdefault(id, text) != text:
            raise TokenizerError(
                f"{file}: {short(text)} has id {id}, but so has {short(owner[id])} elsewhere"
            )
        added[text] = replace(token, special=token.special or text in names)
    for file, entry in special.values():
        text = entry["content"]
        if text not in added:
            id = ids.setdefault(text, max(ids.values()) + 1)
            added[text] = added_token(file, {**entry, "id": id})
    return added
