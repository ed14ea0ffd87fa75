"""What a tokenizer.json does to a text besides its merges, and whether that is what GPT-2 does.

The same can be said in several ways: no normalizer or an empty list of them, the byte-level step alone, in a
list, or behind a step that cuts with GPT-2's own regular expression.
"""

from pathlib import Path
from typing import Any

from gpt2np.errors import TokenizerError, short
from gpt2np.text.vocabulary import byte_characters, checked_id, field_of

# What the field `model` must say; the first of each is what GPT-2's says.
_MODEL: dict[str, tuple[object, ...]] = {
    "type": ("BPE", None),  # the first versions did not write it
    "dropout": (None, 0.0),
    "continuing_subword_prefix": ("", None),
    "end_of_word_suffix": ("", None),
    "ignore_merges": (False, None),
}
_REST = r" ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = {f"{short_forms}|{_REST}" for short_forms in ("'s|'t|'re|'ve|'m|'ll|'d", "'(?:[sdmt]|ll|ve|re)")}

Ids = list[int]


def is_byte_level_bpe(whole: dict[str, Any]) -> bool:
    """Whether the tables of a tokenizer.json are those of byte-level BPE, whatever happens around them."""
    model = whole.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(vocab, dict) or model.get("type", "BPE") != "BPE":
        return False
    return all(char in vocab for char in byte_characters())


def difference(file: Path, whole: dict[str, Any]) -> str | None:
    """The first thing in which a tokenizer.json is not GPT-2's, apart from `prefix_space` and `ends`.

    Raises:
        TokenizerError: a part of it is no object.
    """
    parts = {key: field_of(file, whole, key, dict) for key in ("normalizer", "pre_tokenizer", "model")}
    if not _does_nothing(parts["normalizer"]):
        return f"normalizer is {short(parts['normalizer'])}, expected None"
    if _prefix_space(parts["pre_tokenizer"]) is None:
        return f"pre_tokenizer is {short(parts['pre_tokenizer'] or None)}, expected ByteLevel"
    for key, allowed in _MODEL.items():
        if (found := parts["model"].get(key)) not in allowed:
            return f"model.{key} is {short(found)}, expected {short(allowed[0])}"
    if not is_byte_level_bpe(whole):
        return "model.vocab lacks some of the 256 single bytes"
    if [step for step in steps(whole, "decoder") if step != "ByteLevel"]:
        return f"decoder is {short(whole.get('decoder'))}, expected ByteLevel"
    return None


def prefix_space(whole: dict[str, Any]) -> bool:
    """Whether a tokenizer.json without a `difference` puts a space in front of a text that has none."""
    return bool(_prefix_space(whole["pre_tokenizer"]))


def _does_nothing(normalizer: object) -> bool:
    if not normalizer:
        return True
    inner = normalizer.get("normalizers") if isinstance(normalizer, dict) else None
    is_list = (
        isinstance(normalizer, dict) and normalizer.get("type") == "Sequence" and isinstance(inner, list)
    )
    return is_list and all(_does_nothing(n) for n in inner or [])


def _prefix_space(step: object) -> bool | None:
    """`add_prefix_space` of a pre-tokenizer that does what GPT-2's does; None of any other."""
    if not isinstance(step, dict):
        return None
    if step.get("type") == "ByteLevel":
        add, words = step.get("add_prefix_space"), step.get("use_regex")
        return bool(add) if words in (True, None) and add in (True, False, None) else None
    inner = step.get("pretokenizers")
    if step.get("type") != "Sequence" or not isinstance(inner, list):
        return None
    if len(inner) == 1:
        return _prefix_space(inner[0])
    if len(inner) != 2 or not all(isinstance(s, dict) for s in inner):
        return None
    cut, rest = inner
    kept = cut.get("behavior") == "Isolated" or (cut.get("behavior") == "Removed" and cut.get("invert"))
    pattern = cut.get("pattern")
    words = pattern.get("Regex") if isinstance(pattern, dict) else None
    same = cut.get("type") == "Split" and kept and isinstance(words, str) and words in _WORDS
    bytes_only = rest.get("type") == "ByteLevel" and rest.get("use_regex") is False
    return False if same and bytes_only and rest.get("add_prefix_space") is False else None


def steps(whole: dict[str, Any], key: str) -> list[str]:
    """The types of the steps of `decoder` or another part, those of lists one by one."""

    def of(step: object) -> list[str]:
        if not isinstance(step, dict):
            return []
        inner = step.get("decoders") if step.get("type") == "Sequence" else None
        return [t for s in inner for t in of(s)] if isinstance(inner, list) else [str(step.get("type"))]

    return of(whole.get(key))


def ends(file: Path, whole: dict[str, Any]) -> tuple[Ids, Ids]:
    """The ids that the post-processor of a tokenizer.json puts before and after those of a text.

    Raises:
        TokenizerError: it is of no known kind, or its template does not hold the text once.
    """
    return _ends(file, "post_processor", whole.get("post_processor"))


def _ends(file: Path, where: str, step: object) -> tuple[Ids, Ids]:
    if step is None:
        return [], []
    kind = step.get("type") if isinstance(step, dict) else None
    if isinstance(step, dict) and kind == "ByteLevel":
        return [], []
    if isinstance(step, dict) and kind == "Sequence" and isinstance(step.get("processors"), list):
        before, after = Ids(), Ids()
        for i, inner in enumerate(step["processors"]):
            first, last = _ends(file, f"{where}.processors[{i}]", inner)
            before, after = first + before, after + last
        return before, after
    if isinstance(step, dict) and kind in ("RobertaProcessing", "BertProcessing"):
        return [_id_of_pair(file, where, step, "cls")], [_id_of_pair(file, where, step, "sep")]
    if isinstance(step, dict) and kind == "TemplateProcessing":
        return _ends_of_template(file, where, step)
    raise TokenizerError(f"{file}: {where} is {short(step)}, which is no known kind of post-processor")


def _id_of_pair(file: Path, where: str, step: dict[str, Any], key: str) -> int:
    pair = step.get(key)
    if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
        raise TokenizerError(f"{file}: {where}.{key} is {short(pair)}, not a token and its id")
    return checked_id(file, pair[0], pair[1])


def _ends_of_template(file: Path, where: str, step: dict[str, Any]) -> tuple[Ids, Ids]:
    tokens, pieces = field_of(file, step, "special_tokens", dict), field_of(file, step, "single", list)
    sides: list[Ids] = [[]]
    for piece in pieces:
        token = piece.get("SpecialToken") if isinstance(piece, dict) else None
        if isinstance(piece, dict) and isinstance(piece.get("Sequence"), dict):
            sides.append([])
            continue
        name = token.get("id") if isinstance(token, dict) else None
        entry = tokens.get(name) if isinstance(name, str) else None
        found = entry.get("ids") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not isinstance(found, list):
            raise TokenizerError(f"{file}: {where}.single has {short(piece)}, which special_tokens lacks")
        sides[-1] += [checked_id(file, name, id) for id in found]
    if len(sides) != 2:
        raise TokenizerError(f"{file}: {where}.single must hold the text ('Sequence') once")
    return sides[0], sides[1]
