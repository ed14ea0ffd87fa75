"""What of a model has to do with texts and tokens, and with no array: the base of `Model`."""

from __future__ import annotations

import functools

from gpt2np.checkpoints.checkpoint import Checkpoint
from gpt2np.errors import InputError, TokenizerError, short
from gpt2np.text.chat import Conversation, chat_ids
from gpt2np.text.prompts import Prompt, as_ids, checked_ids
from gpt2np.text.tokenizer import Tokenizer
from gpt2np.tracing.contract import ModelConfig


class TextsOfModel:
    """The tokenizer of a checkpoint, and its token ids as they are run and shown."""

    checkpoint: Checkpoint
    config: ModelConfig

    @functools.cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The checkpoint's tokenizer; None if it has no vocabulary, so that prompts must be ids."""
        architecture = self.config.architecture
        return Tokenizer.from_folder(self.checkpoint.folder, architecture.begin, architecture.control)

    @property
    def usable_tokenizer(self) -> Tokenizer | None:
        """The tokenizer; None if there is none, or one that cannot be used, which matters only for texts."""
        try:
            return self.tokenizer
        except TokenizerError:
            return None

    def token_ids(
        self, prompt: Prompt, *, limit: bool = True, special: bool = False, ends: bool = True
    ) -> list[int]:
        """Return the ids of a prompt, checked; `limit=False` allows more than the context holds.

        A text gets the tokens that the checkpoint puts at its ends, unless `ends=False`; with `special`,
        a special token in it, such as `<|endoftext|>`, is that one token, else plain text.

        Raises:
            InputError: it is empty, longer than the context, or holds something other than ids below vocab.
        """
        if isinstance(prompt, str):
            if self.tokenizer is None:
                files = "vocab.json or tokenizer.json"
                raise InputError(f"{self.checkpoint.folder} has no vocabulary ({files}): give token ids")
            ids = self.tokenizer.encode(prompt, special=special, ends=ends)
        else:
            ids = as_ids(prompt)
        if not ids:
            raise InputError("the prompt is empty: it needs at least one token")
        if limit and len(ids) > (most := self.config.n_positions):
            raise InputError(f"the prompt has {len(ids)} tokens; the context of this model holds {most}")
        return checked_ids(ids, self.config.vocab_size)

    def chat_prompt(self, messages: Conversation) -> list[int]:
        """Return the ids of a conversation in the turns that the model was trained on, to be run as they are.

        `messages` is a text, which the user says, or a list of `{"role": ..., "content": ...}`. Where the
        last one is the user's, the ids end where the answer begins. A checkpoint's own template is not read;
        `text.chat.template_note` says whether it is another one.

        Raises:
            InputError: the model has no chat template, or the messages do not fit into it.
        """
        return chat_ids(messages, self.config.architecture, self.tokenizer)

    def find_id(self, token: str) -> int:
        """Return the id of a token given as its whole text; mind the space in `" France"`.

        Raises:
            InputError: the text is not one token of the vocabulary, or the model has none.
        """
        if self.tokenizer is None:
            raise InputError(f"token {short(token)}: this model has no vocabulary, give the token's id")
        found = self.tokenizer.find_id(token)
        if found is None or found >= self.config.vocab_size:
            raise InputError(self.tokenizer.not_one_token(token))
        return int(found)

    def tokens(self, ids: list[int]) -> list[str]:
        """Return each token as text; `<464>` where the model has no vocabulary, or no such token in it."""
        tokenizer = self.usable_tokenizer
        return [f"<{i}>" for i in ids] if tokenizer is None else tokenizer.tokens(ids)

    def decode(self, ids: list[int]) -> str:
        """Return the text of token ids, leaving out unknown ones; without a vocabulary, `<464>` for each."""
        tokenizer = self.usable_tokenizer
        return "".join(self.tokens(ids)) if tokenizer is None else tokenizer.decode(ids)
