"""The panel of weights and the notes on cards: numbers are those of the functions, sources are told."""

import numpy as np
import pytest
from support.viewer_browser import visit

import gpt2np
from gpt2np.analysis.circuits import composition_scores, copying_scores, token_effects, token_scores
from gpt2np.analysis.heads import reads_and_writes
from gpt2np.analysis.layer_norms import norm_parameters
from gpt2np.analysis.lens import nearest_rows
from gpt2np.analysis.parameter_counts import parameter_shares
from gpt2np.analysis.residual_stream import memory
from gpt2np.viewer.commentary import notes

TEXT = "Elizabeth was not sorry that Mr. Darcy was"


@pytest.fixture(scope="module")
def trace(tiny):
    return tiny.trace(TEXT)


@pytest.fixture(scope="module")
def path(trace, tmp_path_factory):
    path = tmp_path_factory.mktemp("view") / "page.html"
    gpt2np.view(trace, out=path)
    return path


def test_every_part_of_the_document_has_a_note_with_its_source(trace, tiny):
    found = notes(tiny.config)
    assert len(found) >= 20
    assert len({note.title for note in found}) == len(found)
    told = {site for note in found for site in note.sites}
    shown = {site.name for site in tiny.config.architecture.sites}
    assert told >= {
        "wte",
        "wpe",
        "embed",
        "ln_1",
        "attn.q",
        "attn.pattern",
        "attn.z",
        "mlp.pre",
        "mlp.post",
        "logits",
    }
    assert told <= shown | {"mlp.proj"}
    for note in found:
        assert note.address.startswith("https://")
        assert note.source
        assert 60 < len(note.text) < 500


@pytest.mark.needs("playwright", "chromium")
def test_numbers_of_the_weights_are_those_of_the_functions(chromium, path, trace, tiny):
    with visit(chromium, path) as page:
        page.show(panel="weights", layer=2, head=1)
        run = page.js("() => JSON.parse(JSON.stringify(gpt2np.run))")
        ids = run["circuits"]["ids"]
        assert ids == list(dict.fromkeys(trace.token_ids))[-10:]
        scores = token_scores(tiny, 2, 1, ids).array
        np.testing.assert_allclose(run["circuits"]["scores"][2][1], scores, atol=6e-4)
        np.testing.assert_allclose(
            run["circuits"]["effects"][3][0], token_effects(tiny, 3, 0, ids).array, atol=6e-4
        )
        cells = page.page.locator("table.pairs").first.locator("td").all_inner_texts()
        assert [float(cell.replace("−", "-")) for cell in cells] == pytest.approx(scores.ravel(), abs=0.051)
        composed = {kind: composition_scores(tiny, kind).array for kind in "qkv"}
        best = max(float(np.nanmax(array)) for array in composed.values())
        assert page.text(".long-names .value") == f"{best:.3f}"
        opposed = float(np.nanmax(memory(trace)["opposition"].array))
        assert f"{opposed:.2f}" in page.page.locator(".lists.long-names .value").all_inner_texts()
        shares = parameter_shares(tiny).array
        assert page.text(".parameters .value") == f"{int(shares[:, 0].sum()):,}"
        assert "124,439,808" in page.text(".parameter-bars")
        for pos in (0, 5, len(trace.token_ids) - 1):
            page.show(pos=pos)
            shown = page.page.locator(".nearest td").all_inner_texts()
            near = nearest_rows(trace, pos).array
            numbers = [float(cell.replace("−", "-")) for cell in shown]
            assert numbers == pytest.approx(near.ravel(), rel=6e-4)
            assert f"({pos}) beside" in page.text(".nearest h3")

        page.show(panel="map", part="ln_1", layer=1)
        gamma = norm_parameters(tiny).array[2, 0]
        assert f"γ, its scale: from {gamma.min():.2g}" in page.text(".card dl ~ dt")
        mean, rstd = (float(trace[f"h.1.ln_1.{kind}"][-1]) for kind in ("mean", "rstd"))
        said = page.text(".card .card-body > .small").replace("−", "-")
        assert f"mean {mean:.3g} taken away, then times 1/σ = {rstd:.3g}" in said
        strip = page.page.locator(".decoding span").evaluate_all("all => all.map(e => e.title)")
        assert [float(title.split()[-2]) for title in strip] == [
            float(f"{100 * p:.2f}") for _, _, p in trace.top(10)
        ]
        source = page.page.locator(".card .source").first
        assert source.get_attribute("href") == "https://arxiv.org/abs/1607.06450"
        page.show(part="wte")
        assert f"W_E[{trace.token_ids[-1]}]" in page.text(".card .site")


@pytest.mark.needs("playwright", "chromium")
def test_directions_and_copying_of_the_chosen_head(chromium, path, tiny):
    with visit(chromium, path) as page:
        for layer, head in ((2, 1), (0, 3)):
            page.show(panel="weights", layer=layer, head=head)
            rows = page.page.locator("table.directions tbody tr").all()
            told = reads_and_writes(tiny, layer, head, 3, 5)
            assert len(rows) == len(told) == 6
            for row, direction in zip(rows, told, strict=True):
                strength, reads, writes = row.locator("td").all()
                assert float(strength.inner_text()) == pytest.approx(direction.strength, rel=6e-3)
                for cell, near in ((reads, direction.reads), (writes, direction.writes)):
                    words = [word.replace("·", " ") for word in cell.locator(".token").all_inner_texts()]
                    assert words == [token.token for token in near]
            copying = float(page.text(".copying b").replace("−", "-"))
            assert copying == pytest.approx(copying_scores(tiny).array[layer, head], abs=0.006)


@pytest.mark.needs("playwright", "chromium")
def test_without_its_model_the_page_says_what_is_missing(chromium, trace, tmp_path):
    trace.save(tmp_path / "t.safetensors")
    gpt2np.view(gpt2np.Trace.open(tmp_path / "t.safetensors"), out=tmp_path / "page.html")
    with visit(chromium, tmp_path / "page.html") as page:
        page.show(panel="weights")
        assert "opened without its model" in page.text("#panel-weights .absent")
        assert "124,439,808" in page.text(".parameter-bars")


@pytest.mark.needs("playwright", "chromium")
def test_maps_of_composition_name_their_sides_and_their_scale(chromium, path, tiny):
    with visit(chromium, path) as page:
        page.show(panel="weights", layer=2, head=1)
        most = max(float(np.nanmax(composition_scores(tiny, kind).array)) for kind in "qkv")
        assert f"{most:.3f}" in page.text(".composition-key")
        for kind, name in zip("qkv", ("queries", "keys", "values"), strict=True):
            drawn = page.page.locator(".composed").filter(has_text=f"through {name}")
            said = drawn.locator("text").all_text_contents()
            assert {"reads: a head of", "writes: a head of", "layer 0", "layer 3"} <= set(said)
            assert [text for text in said if text.isdigit()][:4] == ["0", "0", "1", "1"]
            assert drawn.locator(".chosen-pair").count() == 2
            drawn.scroll_into_view_if_needed()
            box = drawn.locator("image").bounding_box()
            each = box["width"] / 12
            page.page.mouse.move(box["x"] + 7.5 * each, box["y"] + 1.5 * each)  # writer 0.1, reader 2.3
            score = composition_scores(tiny, kind).array[1, 11]
            assert page.text(".tip").split("\n") == [
                f"layer 0 head 1 → {name} of layer 2 head 3",
                f"{score:.3f}",
            ]
        page.page.mouse.click(box["x"] + 7.5 * each, box["y"] + 1.5 * each)
        assert (page.focus["layer"], page.focus["head"]) == (2, 3)


@pytest.mark.needs("playwright", "chromium")
def test_parts_of_the_parameter_bars_are_named_in_a_legend(chromium, path):
    with visit(chromium, path) as page:
        page.show(panel="weights")
        legend = page.page.locator(".legend > span").all_inner_texts()
        assert legend == ["token embedding", "position embedding", "attention", "mlp", "norms"]
        cut = "[...document.querySelectorAll('.stack span')].filter(e => e.scrollWidth > e.clientWidth + 1)"
        assert page.js(f"() => {cut}.map(e => e.textContent)") == []
