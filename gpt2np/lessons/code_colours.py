"""Python source as HTML: comments, texts and keywords are marked, by more than a colour."""

import io
import keyword
import tokenize

from gpt2np.html_tables import markup

KINDS = {tokenize.COMMENT: "comment", tokenize.STRING: "string"}


def highlighted(source: str) -> str:
    """Return source for HTML; what Python cannot split into tokens stays plain.

    Example:
        >>> highlighted("return 1  # yes")
        '<span class="keyword">return</span> 1  <span class="comment"># yes</span>'
    """
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    pieces, done = list[str](), 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            is_keyword = token.type == tokenize.NAME and keyword.iskeyword(token.string)
            kind = "keyword" if is_keyword else KINDS.get(token.type)
            if kind is not None:
                begin = starts[token.start[0] - 1] + token.start[1]
                lines_of = [markup(line) for line in token.string.split("\n")]  # a mark ends with its line
                marked = "\n".join(line and f'<span class="{kind}">{line}</span>' for line in lines_of)
                pieces += [markup(source[done:begin]), marked]
                done = begin + len(token.string)
    except (tokenize.TokenError, SyntaxError):
        return markup(source)
    return "".join(pieces) + markup(source[done:])


def by_line(source: str) -> str:
    """The same with an element around each line, which knows how far it is indented.

    A line that is too long for the screen can so go on further to the right than it began.
    """
    lines = zip(source.split("\n"), highlighted(source).split("\n"), strict=True)
    return "\n".join(made and _indented(made, len(line) - len(line.lstrip(" "))) for line, made in lines)


def _indented(made: str, depth: int) -> str:
    return f'<span class="line" style="--in:{depth}">{made}</span>'
