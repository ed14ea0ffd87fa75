"""What README.md and the page on speed show of the results of every kind of processor.

python -m benchmarks.readme_table            prints both parts
python -m benchmarks.readme_table --write    puts them into the files
"""

import re
import sys
from pathlib import Path

from benchmarks import results, table

ROOT = Path(__file__).parents[1]
README, PAGE = ROOT / "README.md", ROOT / "gpt2np" / "docs" / "performance.md"
TITLE = "## What was measured"  # of the part of PAGE
HOME = "https://github.com/gpt2np/gpt2np/blob/main/benchmarks/results"
RAW = "https://raw.githubusercontent.com/gpt2np/gpt2np/main/benchmarks/results"
# name of a row: what README.md calls it, whose time stands beside ours, what is compared
SHORT = {
    "cold": ("from a cold start to a full trace of 5 tokens", "hf_eager", "seconds"),
    "trace-5": ("full trace of 5 tokens", "hf_eager", "seconds"),
    "trace-100": ("full trace of 100 tokens", "hf_eager", "seconds"),
    "trace-1024": ("full trace of 1,024 tokens", "hf_eager", "seconds"),
    "decode-32": ("a new token after 32", "hf_sdpa", "step"),
    "batch-8": ("8 prompts together, 16 new tokens each", "hf_sdpa", "seconds"),
}
LONG = ("cold", *(f"trace-{n}" for n in (2, 5, 8, 16, 32, 64, 100, 128, 512, 1024)), "last-512", "last-1024")
LONG += ("decode-32", "decode-900", "beams-4", "batch-4", "batch-8", "batch-12", "batch-16", "packed-64")
LONG += ("save-512", "save-nosync-512")


def short_table(found: dict[str, dict]) -> str:
    """A row for each piece of work, a column for each processor: times as fast as HF, and our time."""
    header = ["times as fast as Hugging Face"]
    for one in found.values():
        machine = results.machine_of(one)
        header.append(f"{results.processor(one)}, {machine['date'][:10]}, {machine['blas']}")
    body = [[label, *(cell(one, name) for one in found.values())] for name, (label, *_) in SHORT.items()]
    return table.markdown(header, body)


def cell(one: dict, name: str) -> str:
    """`1.55x (40 ms)`; `-` if it was not measured."""
    _, engine, key = SHORT[name]
    row = results.rows(one).get(name)
    ratio = row.ratio(engine, key) if row else None
    return f"{ratio['median']:.2f}x ({table.seconds(row.median(key=key))})" if ratio else "-"


def long_part(found: dict[str, dict]) -> str:
    """Of every processor: what it is, when it was measured and with what, the main rows, the picture."""
    parts = [TITLE]
    for stem, one in found.items():
        machine, versions = results.machine_of(one), {}
        for run in one["runs"]:
            for packages in run["versions"].values():
                versions |= packages
        peers = ", ".join(f"{p} {v}" for p, v in versions.items() if p not in ("python", "numpy", "gpt2np"))
        name = results.processor(one)
        parts += [
            f"### {name}",
            f"{machine['cpu']}, {machine['available_cores']} cores, {machine['date'][:10]}: "
            f"gpt2np {machine['gpt2np']}, NumPy {machine['numpy']}, {machine['blas']}; {peers}.",
            *([one["note"]] if "note" in one else []),
            table.speed(one, LONG),
            f"![Times as long as gpt2np]({RAW}/{stem}.png)",
            f"[All rows, limits and goals of {name}]({HOME}/{stem}.md)",
        ]
    return "\n\n".join(parts) + "\n"


def with_table(page: str, new: str) -> str:
    """A page whose table with that first cell is replaced."""
    first = new.partition(" | ")[0]
    return re.sub(rf"^{re.escape(first)} \|.*\n(\|.*\n)*", lambda _: new + "\n", page, flags=re.MULTILINE)


def with_part(page: str, new: str) -> str:
    """A page whose part with that title is replaced, to the next title of its rank."""
    title = new.partition("\n")[0]
    rest = rf"^{re.escape(title)}\n.*?(?=^## |\Z)"
    return re.sub(rest, lambda _: new + "\n", page, flags=re.MULTILINE | re.DOTALL)


def write() -> list[Path]:
    """Put both parts where they belong; the files."""
    found = results.published()
    README.write_text(with_table(README.read_text("utf-8"), short_table(found)), "utf-8")
    PAGE.write_text(with_part(PAGE.read_text("utf-8"), long_part(found)), "utf-8")
    return [README, PAGE]


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        print(*write(), sep="\n")
    else:
        print(short_table(results.published()), long_part(results.published()), sep="\n\n")
