"""Colours of the page: scales that every eye can read, and text that stands out from its ground."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from gpt2np.viewer import page

STATIC = Path(page.__file__).parent / "static"

# What red-blind and green-blind eyes see, on linear RGB (Machado et al. 2009, severity 1).
BLIND = {
    "red": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "none": np.eye(3),
}


def linear(rgb):
    return np.where((c := np.asarray(rgb) / 255) <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def luminance(rgb):
    return linear(rgb) @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("eye", BLIND)
@pytest.mark.needs("node")
def test_scales_are_told_apart_by_every_eye(eye):
    module = f"file://{STATIC}/drawing.js"
    script = f'const {{ SCALES }} = await import("{module}"); console.log(JSON.stringify(SCALES))'
    done = subprocess.run(["node", "--input-type=module", "-e", script], capture_output=True, text=True)
    for theme, scales in json.loads(done.stdout).items():
        seen = {
            name: np.clip(linear(stops) @ np.transpose(BLIND[eye]), 0, 1) for name, stops in scales.items()
        }
        lights = {name: np.cbrt(rgb @ [0.2126, 0.7152, 0.0722]) for name, rgb in seen.items()}
        for name in ("share", "chance"):  # one way from paper to ink
            assert (np.diff(lights[name]) * (1 if theme == "dark" else -1) > 0.02).all(), name
        toward = np.diff(lights["diverging"]) * (1 if theme == "light" else -1)
        assert (toward[:3] > 0).all()
        assert (toward[3:] < 0).all()
        blue, orange = seen["diverging"][1], seen["diverging"][5]
        assert blue[2] - blue[0] > 0.1  # more blue than red, and the other way round
        assert orange[0] - orange[2] > 0.1


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_contrast(theme):
    css = (STATIC / "base.css").read_text("utf-8")
    block = re.search(
        r':root(?:\[data-theme="dark"\])? \{(.*?)\}', css[css.index('[data-theme="dark"]') - 6 :], re.S
    )
    block = block[1] if theme == "dark" else re.search(r":root \{(.*?)\}", css, re.S)[1]
    colours = {
        name: [int(hexa[i : i + 2], 16) for i in (0, 2, 4)]
        for name, hexa in re.findall(r"--([\w-]+): #([0-9a-f]{6})", block)
    }
    pairs = [
        ("ink", "paper"),
        ("soft", "paper"),
        ("soft", "sheet"),
        ("soft", "wash"),
        ("accent", "paper"),
        ("accent", "sheet"),
        ("paper", "accent"),
        ("attention-ink", "paper"),
        ("mlp-ink", "paper"),
    ]
    for text, ground in pairs:
        dark, light = sorted([luminance(colours[text]), luminance(colours[ground])])
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)
