"""A conversation as token ids, in the turns that a model was trained on.

Turns are put together here, of what the architecture says of them (`tracing.contract.Turns`), and not by the
Jinja template of a checkpoint, whose tokens they equal. Messages are always read as plain text: no text that
somebody types can end its turn and begin another.
"""

from collections.abc import Mapping, Sequence

from gpt2np.errors import InputError, short
from gpt2np.text.tokenizer import Tokenizer
from gpt2np.tracing.contract import Architecture, Turns

Message = Mapping[str, str]  # `role` and `content`
Conversation = str | Sequence[Message]  # a text is one message of the user's


def chat_ids(messages: Conversation, architecture: Architecture, tokenizer: Tokenizer | None) -> list[int]:
    """The ids of a conversation; if the last message is the user's, up to where the answer begins.

    Raises:
        InputError: the model has no turns, or these messages do not fit into them.
    """
    turns = architecture.turns
    if turns is None:
        raise InputError(
            f"{architecture.model_type} has no chat template: it continues texts, so give it a plain text"
        )
    if tokenizer is None:
        raise InputError("this model has no vocabulary, which a chat needs: give token ids")
    said = _checked(messages, turns, architecture.model_type)
    wanted = [text for text in architecture.control if tokenizer.find_id(text) is None]
    if wanted:
        raise InputError(f"the vocabulary has no {wanted[0]}, which a chat needs")
    start, end = tokenizer.find_id(turns.start), tokenizer.find_id(turns.end)
    ids = [] if architecture.begin is None else [tokenizer.find_id(architecture.begin)]
    for role, text in said:
        ids += [start, *tokenizer.encode(f"{turns.roles[role]}\n{text.strip()}", ends=False), end]
        ids += tokenizer.encode("\n", ends=False)
    if said[-1][0] == "user":
        ids += [start, *tokenizer.encode(f"{turns.roles['assistant']}\n", ends=False)]
    return [id for id in ids if id is not None]


def template_note(architecture: Architecture, tokenizer: Tokenizer | None) -> str | None:
    """What to say if a checkpoint has a chat template of its own that is another one; None if it has none.

    Such a template is text in Jinja, and not run: it is the released models' or it is not, white space aside.
    """
    turns, own = architecture.turns, None if tokenizer is None else tokenizer.chat_template
    if turns is None or own is None or _squeezed(own) == _squeezed(turns.template):
        return None
    model = architecture.model_type
    return (
        f"the checkpoint's chat_template is not that of {model} as released, whose turns --chat and "
        "chat_prompt make all the same: compare the tokens, or give ids"
    )


def _squeezed(template: str) -> str:
    """A template without what does not matter in Jinja: white space, and how it is cut away."""
    for mark in ("\\n", "-%}", "{%-", "-}}", "{{-"):
        template = template.replace(mark, mark.replace("-", "") if "-" in mark else "")
    return "".join(template.split()).replace('"', "'")


def _checked(messages: Conversation, turns: Turns, model: str) -> list[tuple[str, str]]:
    """Role and text of each message, the roles as keys of `turns.roles`."""
    given = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    if not isinstance(given, Sequence) or isinstance(given, bytes | bytearray):
        raise InputError(f"a conversation is a text or a list of messages, not {short(messages)}")
    if not given:
        raise InputError("the conversation has no message")
    said: list[tuple[str, str]] = []
    for number, message in enumerate(given, 1):
        role, text = _of_message(message, number)
        role = next((key for key, name in turns.roles.items() if role in (key, name)), role)
        if role not in turns.roles:
            known = " and ".join(turns.roles)
            advice = ": put what it says before the user's first message" if role == "system" else ""
            raise InputError(f"message {number} is of role {short(role)}; {model} has {known} only{advice}")
        due = "assistant" if said and said[-1][0] == "user" else "user"
        if role != due:
            last = "two in a row" if said else "the first one"
            raise InputError(f"message {number} is of role {role}, expected {due}: they take turns ({last})")
        said.append((role, text))
    return said


def _of_message(message: object, number: int) -> tuple[str, str]:
    if not isinstance(message, Mapping):
        raise InputError(f"message {number} must be an object with role and content, not {short(message)}")
    for key in ("role", "content"):
        if not isinstance(message.get(key), str):
            found = short(message.get(key)) if key in message else "nothing"
            raise InputError(f"message {number}: {key} must be a text, found {found}")
    if more := [key for key in message if key not in ("role", "content")]:
        raise InputError(f"message {number} has {short(more[0])}: only role and content are supported")
    return message["role"], message["content"]
