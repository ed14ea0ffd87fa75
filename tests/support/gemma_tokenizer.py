"""A tiny vocabulary of Gemma's kind, tests/text/gemma_tokenizer.json; made with sentencepiece by this.

python tests/support/gemma_tokenizer.py
"""

import io
import json
from pathlib import Path

FILE = Path(__file__).parents[1] / "text" / "gemma_tokenizer.json"
TURNS = ("<start_of_turn>", "<end_of_turn>")
OWN = ["<mask>", *TURNS, "\n", "\n\n", "\n\n\n", "\t", "\t\t", "▁▁", "▁▁▁", "▁▁▁▁", "<table>"]
TEXTS = [
    "the cat sat on the mat. the other cats, they sat there too; 'twas über nice! 1234 naïve hello world",
    "Elizabeth was the daughter of a gentleman, and he was a gentleman; so far they were equal.",
    "user model system what is the capital of France? Paris is the capital.  def f(x):\n    return x + 1",
    "<bos> <eos> <start_of_turn> of turns: bos eos, start of turn <bos> <b os> start_of_turn <end_of_turn>",
] * 5


def sentencepiece_model() -> bytes:
    from sentencepiece import SentencePieceTrainer

    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=written, model_type="bpe", vocab_size=440,
        byte_fallback=True, split_digits=True, normalization_rule_name="identity", add_dummy_prefix=False,
        remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, hard_vocab_limit=False,
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>",
        user_defined_symbols=OWN, minloglevel=2, num_threads=1,
    )  # fmt: skip
    return written.getvalue()


def made() -> str:
    """tokenizer.json as transformers makes it, with merges of all pieces, but for the BOS."""
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(model_proto=sentencepiece_model())
    pieces = [model.id_to_piece(i) for i in range(model.get_piece_size())]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [
        [piece[:cut], piece[cut:]]
        for piece in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    control = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
    added = [
        {"id": vocab[text], "content": text, **flags, "special": text in control}
        for text in dict.fromkeys((*control, *OWN))
    ]
    whole = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
                          "invert": False},
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "vocab": vocab,
                  "merges": merges},
    }  # fmt: skip
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":")) + "\n"


def write(folder: Path, bos: bool = False, **config: object) -> Path:
    """The tokenizer of a folder; with `bos` its post-processor puts `<bos>` in front of every text."""
    whole = json.loads(FILE.read_text("utf-8"))
    if bos:
        sequence = {"Sequence": {"id": "A", "type_id": 0}}
        token = {"SpecialToken": {"id": "<bos>", "type_id": 0}}
        whole["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [token, sequence],
            "pair": [token, sequence, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}},
        }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(whole), "utf-8")
    names = {f"{role}_token": f"<{role}>" for role in ("bos", "eos", "pad", "unk", "mask")}
    says = {"tokenizer_class": "GemmaTokenizer", **names, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(says), "utf-8")
    return folder


if __name__ == "__main__":
    FILE.write_text(made(), "utf-8")
