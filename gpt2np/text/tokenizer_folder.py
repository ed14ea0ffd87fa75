"""What a folder's files say together about its tokenizer, as transformers 5 reads them.

tokenizer.json comes before vocab.json and merges.txt. Where tokenizer_config.json names the class
GPT2Tokenizer, or names none in a folder of a GPT-2, HF takes only vocabulary, merges, added tokens and
post-processor out of tokenizer.json and does the rest as GPT-2 does; for other classes all of it counts.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from gpt2np.errors import MissingExtraError, TokenizerError, short
from gpt2np.files import read_text
from gpt2np.text import pipeline
from gpt2np.text.added_tokens import AddedToken, Entry, added_token, added_tokens, declared, named
from gpt2np.text.byte_level_bpe import ByteLevelBPE
from gpt2np.text.hf_tokenizers import HFTokenizer
from gpt2np.text.vocabulary import read_object, vocabulary_of_files, vocabulary_of_model

END_OF_TEXT = "<|endoftext|>"
GPT2_CLASS = "GPT2Tokenizer"
GPT2_TYPES = ("gpt2", "gpt_neo")  # model types whose tokenizer is of that class where none is named
ANY_CLASS = (GPT2_CLASS, "PreTrainedTokenizer", "TokenizersBackend", "PythonBackend")  # say nothing else


class TokenizerFolder(NamedTuple):
    """The files of one folder; an empty object for one that is missing."""

    folder: Path
    whole: dict[str, Any]  # tokenizer.json
    config: dict[str, Any]  # tokenizer_config.json, with what special_tokens_map.json adds
    plain: dict[str, Any]  # added_tokens.json
    class_name: str | None
    gpt2_class: bool  # whether HF would make it of the class GPT2Tokenizer

    @property
    def whole_file(self) -> Path:
        """tokenizer.json."""
        return self.folder / "tokenizer.json"

    @property
    def config_file(self) -> Path:
        """tokenizer_config.json."""
        return self.folder / "tokenizer_config.json"


def read_folder(folder: Path) -> TokenizerFolder | None:
    """Read a folder; None if it has neither tokenizer.json nor vocab.json and merges.txt.

    Raises:
        TokenizerError: one of the two is missing, or a file cannot be read or is no object.
        MissingExtraError: there is only a tokenizer.model.
    """

    def content(name: str) -> dict[str, Any]:
        return read_object(folder / name) if (folder / name).exists() else {}

    has_whole = (folder / "tokenizer.json").exists()
    missing = [name for name in ("vocab.json", "merges.txt") if not (folder / name).exists()]
    if not has_whole and len(missing) == 2:
        if (folder / "tokenizer.model").exists():
            what = "which is not read; transformers (with sentencepiece and protobuf) makes it: "
            how = "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
            raise MissingExtraError(f"{folder} has tokenizer.model and no tokenizer.json, {what}{how}")
        return None
    if not has_whole and missing:
        raise TokenizerError(f"{folder} has no {missing[0]}: a tokenizer needs vocab.json and merges.txt")
    whole, config, model = content("tokenizer.json"), content("tokenizer_config.json"), content("config.json")
    if has_whole and not whole:
        raise TokenizerError(f"{folder / 'tokenizer.json'} is empty")
    if "added_tokens_decoder" not in config:
        config = config | content("special_tokens_map.json")
    name = config.get("tokenizer_class") or model.get("tokenizer_class")
    if not isinstance(name, str | None):
        raise TokenizerError(f"{folder / 'tokenizer_config.json'}: tokenizer_class is {short(name)}, no text")
    name = name and name.removesuffix("Fast")
    gpt2_class = name == GPT2_CLASS or (name is None and model.get("model_type") in GPT2_TYPES)
    return TokenizerFolder(folder, whole, config, content("added_tokens.json"), name, gpt2_class)


def chat_template_of(files: TokenizerFolder) -> str | None:
    """The Jinja template of conversations, in a file of its own or in tokenizer_config.json, if there is one.

    Raises:
        TokenizerError: the file cannot be read.
    """
    own = files.folder / "chat_template.jinja"
    if own.exists():
        return read_text(own, TokenizerError)
    found = files.config.get("chat_template")
    if isinstance(found, list):  # several by name, as older files have them
        named = {str(one.get("name")): one.get("template") for one in found if isinstance(one, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def engine_of(
    files: TokenizerFolder, control: Sequence[str] = ()
) -> tuple[ByteLevelBPE | HFTokenizer, str | None]:
    """What turns texts into ids, and a note where a part of a file is passed over, as HF does it.

    The tokens `control` are special even where the files do not say so.

    Raises:
        TokenizerError: anything in the files is wrong, or they ask for what is not installed.
    """
    if not files.whole:
        return _of_two_files(files), None
    file, whole = files.whole_file, files.whole
    as_gpt2 = files.gpt2_class and pipeline.is_byte_level_bpe(whole)
    why = pipeline.difference(file, whole)
    if why is not None and not as_gpt2:
        return _of_other_kind(files, why, control), None
    vocabulary = vocabulary_of_model(file, whole["model"])
    added = added_tokens(vocabulary, _declared(files, whole), _special(files), every_piece=False)
    wish = _flag(files, "add_prefix_space") if as_gpt2 else pipeline.prefix_space(whole)
    ends = pipeline.ends(file, whole)
    if why is None and pipeline.prefix_space(whole) and not wish:
        why = "pre_tokenizer.add_prefix_space is True"
    done = {"add_bos_token": bool(ends[0]), "add_eos_token": bool(ends[1]), "add_prefix_space": wish}
    return ByteLevelBPE(vocabulary, added, wish, ends), _passed_over(files, why, done)


def _of_other_kind(files: TokenizerFolder, why: str, control: Sequence[str]) -> HFTokenizer:
    file, whole = files.whole_file, files.whole
    own = [token for of, token in _declared(files, whole) if of == file]
    known = {token.text for token in own}
    more = [token for _, token in _declared(files, {})]
    more += [added_token(of, {**entry, "id": 0}) for of, entry in _special(files).values()]
    vocab = (whole.get("model") or {}).get("vocab")
    there = {text: vocab[text] for text in control if text in vocab} if isinstance(vocab, dict) else {}
    more += [added_token(file, {"content": text, "id": id, "special": True}) for text, id in there.items()]
    more = [token if token.text not in control else replace(token, special=True) for token in more]
    untold = {token.text for token in own if token.text in control and not token.special}
    if untold:
        tokens = [
            {**entry, "special": True, "normalized": False} if entry["content"] in untold else entry
            for entry in whole["added_tokens"]
        ]
        whole = {**whole, "added_tokens": tokens}
    more = [token for token in more if token.text not in known]
    return HFTokenizer(file, whole, more, why, changed=bool(untold))


def _passed_over(files: TokenizerFolder, why: str | None, done: dict[str, bool]) -> str | None:
    """The note on what one of the files says and does not count, as in HF."""
    if why is not None:
        return (
            f"{files.whole_file}: {why}; it is passed over, as transformers 5 does for the class "
            f"{GPT2_CLASS} (tokenizer_class PreTrainedTokenizerFast in tokenizer_config.json makes it count)"
        )
    unheard = [key for key, is_done in done.items() if files.config.get(key) is True and not is_done]
    what = "passed over, as transformers 5 does beside a tokenizer.json that says otherwise"
    return f"{files.config_file}: {', '.join(unheard)}: {what}" if unheard else None


def _of_two_files(files: TokenizerFolder) -> ByteLevelBPE:
    """The tokenizer of a vocab.json and a merges.txt, with what tokenizer_config.json says."""
    if files.class_name is not None and files.class_name not in ANY_CLASS:
        raise TokenizerError(
            f"{files.config_file}: tokenizer_class is {short(files.class_name)}, which needs a "
            "tokenizer.json: save_pretrained of transformers' AutoTokenizer writes one"
        )
    vocabulary = vocabulary_of_files(files.folder / "vocab.json", files.folder / "merges.txt")
    special, before, after = _special(files), list[int](), list[int]()
    added = added_tokens(vocabulary, _declared(files, {}), special, every_piece=True)
    for role, ids in (("bos", before), ("eos", after)):
        if _flag(files, f"add_{role}_token"):
            text = special[f"{role}_token"][1]["content"] if f"{role}_token" in special else None
            text = files.config.get(f"{role}_token", END_OF_TEXT) if text is None else text
            if text is None:  # null: HF adds none either
                continue
            if text not in vocabulary.ids and text not in added:
                raise TokenizerError(
                    f"{files.config_file}: add_{role}_token asks for {short(text)}, "
                    "which is no token of the vocabulary"
                )
            ids.append(added[text].id if text in added else vocabulary.ids[text])
    return ByteLevelBPE(vocabulary, added, _flag(files, "add_prefix_space"), (before, after))


def _special(files: TokenizerFolder) -> dict[str, Entry]:
    """The special tokens that the files name; a GPT2Tokenizer's are END_OF_TEXT where it is a token."""
    found = named(files.config_file, files.config)
    vocab = (files.whole.get("model") or {}).get("vocab") if files.gpt2_class else None
    if isinstance(vocab, dict) and END_OF_TEXT in vocab:
        usual = (files.config_file, {"content": END_OF_TEXT, "special": True})
        found |= {role: usual for role in ("bos_token", "eos_token", "unk_token") if role not in found}
    return found


def _declared(files: TokenizerFolder, whole: dict[str, Any]) -> list[tuple[Path, AddedToken]]:
    return list(
        declared(
            {
                "added_tokens": (files.folder / "added_tokens.json", files.plain),
                "tokenizer": (files.whole_file, whole),
                "tokenizer_config": (files.config_file, files.config),
            }
        )
    )


def _flag(files: TokenizerFolder, key: str) -> bool:
    value = files.config.get(key)
    if value not in (True, False, None) or isinstance(value, float):
        raise TokenizerError(f"{files.config_file}: {key} must be true or false, not {short(value)}")
    return bool(value)
