"""The parser of the command line: verbs with examples and grouped options, and what a typo probably meant."""

import argparse
import importlib
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from gpt2np.cli.texts import a_text
from gpt2np.errors import nearest, printable, short

FILES = {"heads": "heads_and_lens", "lens": "heads_and_lens"}  # of verbs, where it is no file of that name
EXAMPLE = "gpt2np trace 'Elizabeth was'"
# What other programs call our verbs and options.
VERBS_ELSEWHERE = {
    **dict.fromkeys(("run", "forward", "predict", "attention", "activations", "logits", "show"), "trace"),
    **dict.fromkeys(("complete", "sample", "continue", "chat"), "generate"),
    **dict.fromkeys(("encode", "decode", "tokens"), "tokenize"),
    **dict.fromkeys(("perplexity", "loss", "eval"), "score"),
    **dict.fromkeys(("diff", "verify", "check"), "compare"),
    **dict.fromkeys(("visualize", "plot", "open", "html"), "view"),
    **dict.fromkeys(("save", "convert"), "export"),
    **dict.fromkeys(("models", "config", "about"), "info"),
    **dict.fromkeys(("logit-lens", "logitlens"), "lens"),
    **dict.fromkeys(("statistics",), "stats"),
    **dict.fromkeys(("attribution", "attribute"), "heads"),
    **dict.fromkeys(("cache", "kvcache"), "kv"),
    **dict.fromkeys(("pull", "fetch"), "download"),
    **dict.fromkeys(("lesson", "lessons", "course", "tutorial", "teach", "exercise", "exercises"), "learn"),
}
LETTERS = {  # of other programs
    **{"-t": "--temperature", "-n": "--max-new-tokens", "-k": "--top-k", "-p": "--top-p", "-m": "--model"},
    **{"-o": "--out", "-s": "--seed", "-f": "--force", "-v": "--version", "-V": "--version", "-j": "--json"},
}
OPTIONS_ELSEWHERE = {
    **dict.fromkeys(("--max-length", "--length", "--num-tokens", "--n-predict"), "--max-new-tokens"),
    **dict.fromkeys(("--temp",), "--temperature"),
    **dict.fromkeys(("--output", "--save", "--output-file"), "--out"),
    **dict.fromkeys(("--position",), "--pos"),
    **dict.fromkeys(("--panel", "--tab"), "--show"),
    **dict.fromkeys(("--site", "--sites"), "--keep"),
    **dict.fromkeys(("--plot", "--picture", "--svg", "--pdf"), "--png"),
    **dict.fromkeys(("--input-ids", "--ids"), "--tokens"),
    **dict.fromkeys(("--overwrite", "--yes"), "--force"),
    **dict.fromkeys(("--offline",), "--local-files-only"),
    **dict.fromkeys(("--beams", "--beam-size"), "--num-beams"),
}


class Help(argparse.HelpFormatter):
    """Wraps paragraphs, and leaves lines that begin with two spaces, as those of examples, as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts: list[str] = []
        for line in text.splitlines():
            raw = not line or line.startswith("  ")
            parts += [line] if raw else textwrap.wrap(line, width, break_on_hyphens=False)
        return "\n".join(indent + part if part else "" for part in parts)


Groups = Mapping[str, Mapping[str, str]]  # of verbs: a title, and a sentence for each verb
_DEFAULTS: dict[str, Any] = {"formatter_class": Help, "allow_abbrev": False}


class Parser(argparse.ArgumentParser):
    """One line for what is wrong, with what was probably meant, instead of the whole usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **_DEFAULTS | kwargs)
        self.groups: Groups = {}  # of its verbs, where they are imported when they are asked for

    def add_verbs(self, groups: Groups) -> None:
        """Add verbs that are imported when they are asked for, as the help groups them."""
        self.groups = groups
        verbs: Any = self.add_subparsers(title="verbs", metavar="VERB", required=True, action=Verbs)
        verbs.sentences = {name: text for of in groups.values() for name, text in of.items()}

    def error(self, message: str) -> NoReturn:
        """Say it on stderr and exit with 2."""
        if "required: VERB" in message:
            message = f"say what to do, as in: {EXAMPLE}"
        self.refuse(message, self.prog)

    def refuse(self, message: str, prog: str) -> NoReturn:
        """Say on one line what is wrong, and whose help to read; exit with 2."""
        if len(message) > 400:  # it quotes what was given
            message = f"{message[:397]}..."
        self.exit(2, f"gpt2np: {printable(message)} (see: {prog} --help)\n")

    def format_help(self) -> str:
        """The help: what must be given, the options in groups, and the examples; verbs by their groups."""
        formatter = self._get_formatter()
        needed = [action for action in self._actions if action.required or not action.option_strings]
        formatter.add_usage(self.usage, needed, [])
        formatter.add_text(self.description)
        for group in sorted(self._action_groups, key=lambda group: group.title != "prompt"):
            verbs = any(isinstance(action, argparse._SubParsersAction) for action in group._group_actions)
            if not (verbs and self.groups):
                formatter.start_section(group.title)
                formatter.add_arguments(group._group_actions)
                formatter.end_section()
        formatter.add_text(self._list_of_verbs() if self.groups else self.epilog)
        return formatter.format_help().replace(f"usage: {self.prog}", f"usage: {self.prog} [options]", 1)

    def _list_of_verbs(self) -> str:
        """Its verbs by their groups, in lines of the terminal."""
        width, lines = shutil.get_terminal_size().columns - 2, list[str]()
        for title, verbs in self.groups.items():
            lines += [f"{title}:"]
            for name, sentence in verbs.items():
                text = f"  {name:<10}  {sentence.partition(':')[0]}"
                lines += textwrap.wrap(text, width, subsequent_indent=" " * 14)
            lines += [""]
        return "\n".join(
            [*lines, "example:", f"  {EXAMPLE}", "", "gpt2np VERB --help explains a command and its options."]
        )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The same, but an unknown option is told before anything that is missing."""
        given = sys.argv[1:] if args is None else list(args)
        self._check_options(given)
        found, more = super().parse_known_args(given, namespace)
        if more:
            self._tell_of_more(getattr(found, "text", None), more)
        return found, more

    def _tell_of_more(self, text: str | None, more: Sequence[str]) -> NoReturn:
        """Say where words go that nothing takes: into quotes with the text before, or behind an option."""
        rest, options = " ".join(more), self._option_string_actions
        if text is not None:
            other = getattr(options.get("--against"), "metavar", None) == "OTHER"
            two = f"{self.prog} {shlex.quote(text)} --against {shlex.quote(rest)}"
            hint = f"; two prompts: {two}" if other else ""
            self.error(f"quote the text: {self.prog} {shlex.quote(f'{text} {rest}')}{hint}")
        if "--prompt-set" in options and more[0].endswith((".txt", ".json", ".jsonl")):
            self.error(f"a file of prompts goes with --prompt-set: {self.prog} --prompt-set {more[0]}")
        if "--prompt" in options:
            self.error(f"a text goes with --prompt: {self.prog} ... --prompt {shlex.quote(rest)}")
        places = [action for action in self._actions if not action.option_strings]
        takes = " ".join(str(action.metavar or action.dest) for action in places) or "options only"
        quotes = "; a text of several words stands in quotes" if any(a.type is a_text for a in places) else ""
        self.error(f"there is no place for {short(rest)}: {self.prog} takes {takes}{quotes}")

    @property
    def verbs(self) -> Mapping[str, argparse.ArgumentParser]:
        """The parsers of its verbs, by name; empty where it has none."""
        found = [a for a in self._actions if isinstance(a, argparse._SubParsersAction)]
        return found[0].choices if found else {}

    @property
    def options(self) -> list[str]:
        """Every option that it has, as it is written."""
        return [option for action in self._actions for option in action.option_strings]

    def _check_options(self, given: Sequence[str]) -> None:
        """Refuse an option that is none; those behind a verb are the verb's own."""
        for i, word in enumerate(given):
            if word == "--" or (self.verbs and not word.startswith("-")):
                return
            if word.startswith("--") and " " not in word.partition("=")[0]:
                self._check_option(word.partition("=")[0])
            elif word[:1] == "-" and self._looks_like_text(word):
                self._tell_of_dash(word, given[i - 1] if i else "")

    def _tell_of_dash(self, word: str, before: str) -> NoReturn:
        """Say how to give a text that begins with a dash."""
        action = self._option_string_actions.get(before)
        if action is not None and action.nargs != 0:  # it was to be the option's value
            self.error(f"{short(word)} begins with -: write {before}={shlex.quote(word)}")
        if LETTERS.get(word[:2]) in self.options and (len(word) == 2 or word[2].isdigit()):
            self.error(f"there is no option {word[:2]}; did you mean {LETTERS[word[:2]]}?")
        self.error(f"{short(word)} begins with -: give such a text after --, as in: {self._after(word)}")

    def _check_option(self, option: str) -> None:
        known = self.options
        if option in known:
            return
        meant = self._meant_option(option.replace("_", "-").lower())
        self.error(f"there is no option {short(option)}" + (f"; did you mean {meant}?" if meant else ""))

    def _meant_option(self, asked: str) -> str | None:
        """The option that was probably meant: another program's, the beginning of one, or a misspelt one."""
        known, word = [name for name in self.options if name[1] == "-"], asked[2:]
        if OPTIONS_ELSEWHERE.get(asked) in known:
            return OPTIONS_ELSEWHERE[asked]
        for action in self._actions:
            if action.choices and action.option_strings and word in action.choices:
                return f"{action.option_strings[-1]} {word}"
        begun = [name for name in known if len(word) > 2 and name.startswith(asked)]
        letters = [name for name in known if sorted(name) == sorted(asked)]
        near = nearest(word, [name[2:] for name in known], cutoff=0.74)
        return next(iter(begun + letters), f"--{near}" if near else None)

    def _looks_like_text(self, word: str) -> bool:
        """Whether a word with one dash is neither a number nor a short option with its value."""
        if word == "-" or word in self.options:
            return False
        try:
            float(word)
        except ValueError:
            action = self._option_string_actions.get(word[:2])
            return not word.startswith("--") and (action is None or action.nargs == 0)
        return False

    def _after(self, word: str) -> str:
        """A command in which a word is a text and no option."""
        return f"{self.prog} -- {shlex.quote(word)}"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse a verb or a choice that is none, with the nearest one."""
        if action.choices is None or value in action.choices:
            return
        if not isinstance(action, argparse._SubParsersAction):
            listed = ", ".join(map(str, action.choices))
            self.error(f"{_name(action)}: invalid choice: {short(value)} (choose from {listed})")
        meant = meant_verb(str(value), action.choices)
        if meant is not None:
            self.refuse(f"there is no command {short(value)}; did you mean {meant}?", f"{self.prog} {meant}")
        if str(value) == "help" or self.prog != "gpt2np":
            self.error(f"there is no command {short(value)}; they are {', '.join(action.choices)}")
        run = f"gpt2np trace {shlex.quote(str(value)[:60])}"
        self.error(f"there is no command {short(value)}; if it is a text to be run: {run}")


class Verbs(argparse._SubParsersAction):  # type: ignore[type-arg]  # no class has its argument at run time
    """The verbs of the command line, each of which is imported when its parser is asked for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sentences: dict[str, str] = {}  # what the help says of each
        self.choices = _Imported(self, self._name_parser_map)  # type: ignore[assignment]  # it is only read

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Let the verb's own parser read what comes after its name."""
        self.choices[values[0]]
        super().__call__(parser, namespace, values, option_string)


class _Imported(Mapping[str, argparse.ArgumentParser]):
    """The parsers of verbs by name: to look one up is to import the verb."""

    def __init__(self, verbs: Verbs, made: Mapping[str, argparse.ArgumentParser]) -> None:
        self._verbs, self._made = verbs, made

    def __getitem__(self, name: str) -> argparse.ArgumentParser:
        if name not in self._made:
            file = FILES.get(name, name)
            importlib.import_module(f"gpt2np.cli.verbs.{file}").register(self._verbs)
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._verbs.sentences

    def __iter__(self) -> Iterator[str]:
        return iter(self._verbs.sentences)

    def __len__(self) -> int:
        return len(self._verbs.sentences)


def meant_verb(given: str, verbs: Iterable[str]) -> str | None:
    """The verb that was probably meant; None where none is near, or a text was given."""
    known = list(verbs)
    elsewhere = VERBS_ELSEWHERE.get(given.lower())
    return elsewhere if elsewhere in known else nearest(given, known)


def _name(action: argparse.Action) -> str:
    return "argument " + ("/".join(action.option_strings) or str(action.metavar or action.dest))


def add_verb(
    verbs: Any, name: str, run: Callable[[argparse.Namespace], int], *examples: str, text: str | None = None
) -> argparse.ArgumentParser:
    """A verb: its name, the function that runs it and returns the exit code, and examples.

    An example is a command without its `gpt2np`; `add_note` says more below them. `text` is its sentence
    where it is a verb of a verb, as `kv extract`; the others' are in `gpt2np.cli.program`.
    """
    text = text or str(verbs.sentences[name])
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=text, description=text[0].upper() + text[1:]
    )
    title = "example" if len(examples) == 1 else "examples"
    parser.epilog = "\n".join([f"{title}:", *(f"  gpt2np {line}" for line in examples)]) if examples else None
    parser.set_defaults(run=run, prog=parser.prog)
    return parser


def add_note(parser: argparse.ArgumentParser, text: str) -> None:
    """A paragraph at the end of a verb's help."""
    parser.epilog = "\n\n".join(filter(None, (parser.epilog, " ".join(text.split()))))
