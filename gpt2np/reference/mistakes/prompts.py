"""Mistakes before the model: it ran on other tokens."""

from collections.abc import Iterator

from gpt2np.reference.mistakes.base import OtherPrompt, PromptMistake
from gpt2np.tracing.contract import ModelConfig


class BosPrepended(PromptMistake):
    """<|endoftext|> in front of the prompt."""

    slug = "bos-prepended"
    explanation = "A token was put in front of the prompt: every token is one position too late."
    cure = (
        "GPT-2's tokeniser adds nothing: run the ids of the text alone, or compare with --tokens that has it."
    )
    hints = (
        "How many rows have you got, and how many did you mean to have?",
        "Is something there before your first token?",
    )

    def prompts(
        self, ids: tuple[int, ...], whole: tuple[int, ...], config: ModelConfig
    ) -> Iterator[OtherPrompt]:
        for bos in dict.fromkeys((*config.eos_ids, config.vocab_size - 1, 0)):
            if 0 <= bos < config.vocab_size and len(ids) < config.n_positions:
                detail = f"token {bos} in front"
                yield OtherPrompt((bos, *ids), slice(None), detail)
                yield OtherPrompt((bos, *ids), slice(1, None), detail + ", whose own row is left out")
                yield OtherPrompt((bos, *ids), slice(0, len(ids)), detail + ", and the last row is left out")


class ContextTruncated(PromptMistake):
    """The wrong end of a long text, or too much of it, was cut off."""

    slug = "context-truncated"
    explanation = "The text was cut at the wrong end, or cut although it fits."
    cure = "Keep the last n_positions tokens: what is to be continued is at the end."
    hints = (
        "Did your program read the whole prompt?",
        "Which tokens does it see: those nearest to what comes next?",
    )

    def prompts(
        self, ids: tuple[int, ...], whole: tuple[int, ...], config: ModelConfig
    ) -> Iterator[OtherPrompt]:
        if len(whole) > len(ids):
            yield OtherPrompt(whole[: len(ids)], slice(None), f"its first {len(ids)} tokens were kept")
        for n in range(len(ids) - 1, 0, -1):
            yield OtherPrompt(ids[-n:], slice(None), f"the first {len(ids) - n} tokens were cut off")


class WrongTokenIds(PromptMistake):
    """Other ids; which ones is read from the embeddings in the dump."""

    slug = "wrong-token-ids"
    explanation = "Other tokens ran: the tokeniser, its vocabulary or the order of the ids differs."
    cure = (
        "Print your ids beside those of `gpt2np tokenize TEXT`; --their-tokens says where two lists differ."
    )
    hints = (
        "What does your program make of the text, before any vector?",
        "Do both programs read the same tokens?",
    )
    reads_ids = True

    def prompts(
        self, ids: tuple[int, ...], whole: tuple[int, ...], config: ModelConfig
    ) -> Iterator[OtherPrompt]:
        top = config.vocab_size - 1
        yield OtherPrompt(ids[::-1], slice(None), "in reverse order")
        end = next((i for i in config.eos_ids if i < config.vocab_size), 0)
        yield OtherPrompt((*ids[1:], end), slice(None), "shifted by one")
        for shift in (1, -1):
            shifted = tuple(min(max(i + shift, 0), top) for i in ids)
            yield OtherPrompt(shifted, slice(None), f"every id is {shift:+d}")
