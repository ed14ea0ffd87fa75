"""Numbers and tokens as the page writes them: nothing that a reader would take for another number."""

import json
import subprocess
from pathlib import Path

import pytest

from gpt2np.characters import readable
from gpt2np.viewer import page

STATIC = Path(page.__file__).parent / "static"
pytestmark = pytest.mark.needs("node")


def js(script):
    """What an expression of JavaScript is, with all that these modules export at hand."""
    modules = ("drawing", "run_data", "mlp", "shaded_text")
    imports = " ".join(f'...(await import("file://{STATIC}/{name}.js")),' for name in modules)
    program = f"const m = {{ {imports} }}; console.log(JSON.stringify({script}))"
    done = subprocess.run(["node", "--input-type=module", "-e", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("p", "two_places", "whole"),
    [
        (0, "0.00 %", "0 %"),
        (8e-11, "< 0.01 %", "< 1 %"),
        (4e-5, "< 0.01 %", "< 1 %"),
        (6e-5, "0.01 %", "< 1 %"),
        (0.1741, "17.41 %", "17 %"),
        (0.997, "99.70 %", "> 99 %"),
        (0.99999, "> 99.99 %", "> 99 %"),
        (1, "100.00 %", "100 %"),
    ],
)
def test_a_probability_is_never_written_as_none_or_all_if_it_is_not(p, two_places, whole):
    assert js(f"[m.percent({p}), m.wholePercent({p}), m.wholePercent({p}, '')]") == [
        two_places,
        whole,
        whole.replace(" ", "").replace("%", ""),
    ]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("f4", ["< 0.01 %", "< 0.01 %", "0.020 %", "4.6 %", "44.6 %", "> 99.9 %", "100.0 %"]),
        ("u2", ["< 0.1 %", "< 0.1 %", "< 0.1 %", "4.6 %", "44.6 %", "> 99.9 %", "100.0 %"]),
        ("u1", ["< 1 %", "< 1 %", "< 1 %", "≈ 5 %", "≈ 45 %", "> 99 %", "≈ 100 %"]),
        ("top", ["small", "< 0.1 %", "< 0.1 %", "4.6 %", "44.6 %", "> 99.9 %", "100.0 %"]),
    ],
)
def test_shares_of_attention_have_the_digits_that_are_stored(kind, told):
    run = f"{{ detail: {{ attention: '{kind}' }} }}"
    shares = "[0, 1e-9, 2e-4, 0.046, 0.446, 0.9997, 1]"
    assert js(f"{shares}.map((w) => m.Run.prototype.weightText.call({run}, w))") == told


def test_powers_of_ten_are_written_by_hand():
    assert js("[1.234e-5, -1.234e-5, 123456, 0.0123, 0, NaN].map((x) => m.digits(x))") == [
        "1.23·10⁻⁵",
        "−1.23·10⁻⁵",
        "1.23·10⁵",
        "0.0123",
        "0",
        "–",
    ]


def test_what_an_activation_leaves_as_it_is_is_said_to_be_the_same():
    assert js("[m.beforeAfter(2.13, 2.0947), m.beforeAfter(5.3901, 5.39009)]") == [
        "2.13 → 2.09",
        "5.39 → same",
    ]


def test_parts_of_a_character_stand_as_that_character_once():
    tokens = [" a", "\\xe6", "\\x97", "\\xa5", " \\xf0\\x9f", "\\x99", "\\x82!", "b", "\\xe6"]
    header = json.dumps({"tokens": tokens, "shown": readable(tokens), "model": {"ran": 1}})
    labels = js(f"new m.Run({{ header: {header}, arrays: {{}} }}).labels")
    assert labels[1:4] == ["日¹⁄₃", "日²⁄₃", "日³⁄₃"]
    groups = js(f"m.groupsOf({json.dumps(labels)}, 0, {len(labels)})")
    assert [(group["positions"], group["text"]) for group in groups] == [
        ([0], " a"),
        ([1, 2, 3], "日"),
        ([4, 5, 6], " 🙂!"),
        ([7], "b"),
        ([8], "\\xe6"),
    ]
    begun = js(f"m.groupsOf({json.dumps(labels)}, 2, 3)")
    assert begun[0] == {"positions": [2, 3], "text": "日²⁄₃"}
    labels = ["e", "\u0301¹⁄₂", "\u0301²⁄₂", "👩", "\\u200d¹⁄₂", "\\u200d²⁄₂", "👧"]
    groups = js(f"m.groupsOf({json.dumps(labels)}, 0, {len(labels)})")
    assert [(group["positions"], group["text"]) for group in groups] == [
        ([0, 1, 2], "e\u0301"),
        ([3, 4, 5, 6], "👩\u200d👧"),
    ]
