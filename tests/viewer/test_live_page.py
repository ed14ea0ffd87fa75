"""A live page in a real browser: what is typed, swapped, switched off, generated, and what it is made of."""

import re
import shutil

import numpy as np
import pytest
from support import gpt_neo_checkpoint
from support.live_use import TEXT, logits_match, settle, type_in
from support.random_model import random_model, random_model_with_text
from support.viewer_browser import visit

import gpt2np
from gpt2np.analysis.interventions import zero
from gpt2np.checkpoints.checkpoint import shipped_folder
from gpt2np.cli import main
from gpt2np.viewer import live_model
from gpt2np.viewer.live_page import live_page
from gpt2np.viewer.page import Page

# -- the file ---------------------------------------------------------------------------------------------


def test_the_page_is_small_and_its_policy_names_every_script(tiny):
    page = live_page(tiny)
    assert isinstance(page, Page)
    assert len(page.html.encode()) < 8_000_000
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page.html)[1]
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    assert re.findall(r"worker-src ([^;]+);", policy) == ["blob:"]
    assert policy.count("'sha256-") == 3
    assert "unsafe" not in policy
    scripts = re.findall(r"<script([^>]*)>", page.html)
    assert scripts == [
        ' type="application/json" id="facts"',
        ' type="application/octet-stream;base64" id="weights"',
        ' id="engine"',
        ' type="module"',
    ]


def test_what_a_page_cannot_run_is_refused_in_one_line(tiny, tmp_path, monkeypatch):
    out = tmp_path / "page.html"
    with pytest.raises(gpt2np.Gpt2npError, match="no tokenizer of GPT-2's own kind"):
        gpt2np.view(random_model(dtype="float32"), out=out)
    with pytest.raises(gpt2np.Gpt2npError, match="neither compact, model nor against"):
        gpt2np.view(tiny, compact=True)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(shipped_folder() / name, tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"add_prefix_space": true}')
    spaced = random_model(dtype="float32", folder=str(tmp_path), vocab_size=2048)
    assert spaced.tokenizer.encode("a") == spaced.tokenizer.encode(" a")
    with pytest.raises(gpt2np.Gpt2npError, match="no tokenizer of GPT-2's own kind"):
        gpt2np.view(spaced, out=out)
    big = random_model_with_text().with_weights({"wpe.weight": np.full((256, 8), 1e6)})
    with pytest.raises(gpt2np.Gpt2npError, match=r"wpe.weight has a weight above 65,504"):
        gpt2np.view(big, out=out)
    monkeypatch.setattr(live_model, "MOST", 1_000_000)
    with pytest.raises(gpt2np.Gpt2npError, match=r"2,222,208 parameters: its page would have 6 MB, 1 MB is"):
        gpt2np.view(tiny, out=out)
    monkeypatch.setattr("gpt2np.viewer.live_page.MOST", 5_000_000)
    monkeypatch.setattr(live_model, "MOST", 5_000_000)
    with pytest.raises(gpt2np.Gpt2npError, match="its page would have 6 MB, 5 MB is the most"):
        gpt2np.view(tiny, out=out)
    assert not out.exists()


def test_another_architecture_is_refused(tmp_path, capsys):
    folder = gpt_neo_checkpoint.write(tmp_path / "neo")
    out = ["--no-open", "--out", str(tmp_path / "x.html")]
    assert main(["view", "--live", "--model", str(folder), *out]) == 2
    assert "runs GPT-2 only, not gpt_neo" in capsys.readouterr().err


def test_the_command_line_writes_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["view", "--live", "To be", "--no-open", "--out", "alive.html"]) == 0
    written = (tmp_path / "alive.html").read_text("utf-8")
    assert '"text": "To be"' in written or '"text":"To be"' in written
    for wrong, said in (
        (["--big"], "--big is not for --live"),
        (["--poster", "p.svg"], "--poster FILE is written instead of the page: leave out --live"),
        (["--max-new-tokens", "3"], "--max-new-tokens is not for --live"),
        (["--trace", "x.safetensors"], "--trace is not for --live"),
        (["--chat", "x"], "--chat is not for --live"),
        (["--seed", "1"], "--seed needs --max-new-tokens"),
        (["--show", "chages"], "did you mean 'changes'?"),
        (["--tokens", "5000"], "5000"),
    ):
        assert main(["view", "--live", "--no-open", "--out", "no.html", *wrong]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert "Traceback" not in error
    assert not (tmp_path / "no.html").exists()


# -- in the browser -----------------------------------------------------------------------------------------


@pytest.mark.needs("playwright", "chromium")
def test_typing_changes_every_panel_and_marks_what_is_new(chromium, live_path, tiny):
    with visit(chromium, live_path) as page:
        settle(page)
        assert page.js("() => gpt2np.place") == "worker"
        logits_match(page, tiny, tiny.tokenizer.encode(TEXT))
        page.page.wait_for_timeout(1300)  # the text has settled: it is what the next is compared with
        longer = f"{TEXT} angry"
        type_in(page, longer)
        ids = tiny.tokenizer.encode(longer)
        logits_match(page, tiny, ids)
        assert page.focus["pos"] == len(ids) - 1
        new = len(ids) - len(tiny.tokenizer.encode(TEXT))
        assert page.page.locator(".word.changed").count() == new
        for panel in "map attention lens contributions mlp residual changes glossary".split():
            page.show(panel=panel)
            assert page.page.locator(f"#panel-{panel}").is_visible()
            assert page.page.locator(f"#panel-{panel} .absent").count() == 0, panel
        assert f"{len(ids)} tokens of at most 256" in page.text(".status")


@pytest.mark.needs("playwright", "chromium")
def test_a_swap_moves_one_token_and_shows_what_followed(chromium, live_path, tiny):
    with visit(chromium, live_path) as page:
        settle(page)
        ids = tiny.tokenizer.encode(TEXT)
        page.show(pos=2, panel="changes")
        assert "Nothing has changed" in page.text(".changes")
        box = page.page.get_by_label("token to put there")
        box.fill("had")  # the space in front is added
        box.press("Enter")
        had = tiny.tokenizer.find_id(" had")
        page.until(f"() => gpt2np.run.ids[2] === {had}")
        settle(page)
        logits_match(page, tiny, [*ids[:2], had, *ids[3:]])
        assert page.page.locator("textarea").input_value() == TEXT.replace("was", "had", 1)
        assert [each.get_attribute("data-pos") for each in page.page.locator(".word.changed").all()] == ["2"]
        before, after = (
            float(np.nanmean(tiny.trace(some)["loss"])) for some in (ids, [*ids[:2], had, *ids[3:]])
        )
        assert f"{before:.3f} → {after:.3f}" in page.text(".changes .answer")
        box = page.page.get_by_label("token to put there")
        box.fill("zzzz")
        box.press("Enter")
        page.until("() => /A swap needs one/.test(document.querySelector('.status').textContent)")
        assert page.js("() => gpt2np.run.ids.length") == len(ids)


@pytest.mark.needs("playwright", "chromium")
def test_switches_compare_with_the_whole_model(chromium, live_path, tiny):
    with visit(chromium, live_path) as page:
        settle(page)
        ids = tiny.tokenizer.encode(TEXT)
        page.page.locator(".studio summary").click()
        page.show(panel="changes")
        head = page.page.get_by_role("button", name="layer 0 head 3", exact=True)
        head.click()
        page.until("() => gpt2np.run.model.edits.length === 1")
        settle(page)
        off = {"h.0.attn.z": zero(heads=[3])}
        logits_match(page, tiny, ids, off)
        word, _, p = tiny.trace(ids).top(1)[0]
        assert page.text(".then") == f"the whole model: {word.replace(' ', '·')} {100 * p:.2f} %"
        whole, less = (float(np.nanmean(tiny.trace(ids, edits=e)["loss"])) for e in (None, off))
        assert f"Against the whole model. Loss of the text: {whole:.3f} → {less:.3f}" in page.text(".changes")
        type_in(page, "It is a truth")
        assert head.get_attribute("aria-pressed") == "true"
        logits_match(page, tiny, tiny.tokenizer.encode("It is a truth"), off)
        assert "Against the whole model" in page.text(".changes")
        page.page.get_by_role("button", name="Everything on").click()
        page.until("() => !gpt2np.run.model.edits.length")
        settle(page)
        logits_match(page, tiny, tiny.tokenizer.encode("It is a truth"))


@pytest.mark.needs("playwright", "chromium")
def test_trying_each_part_names_those_that_are_missed_most(chromium, live_path, tiny):
    with visit(chromium, live_path) as page:
        settle(page)
        page.page.locator(".studio summary").click()
        page.page.get_by_role("button", name="Try each part").click()
        page.until("() => /Missed/.test(document.querySelector('.switch-board [role=status]').textContent)")
        ids = tiny.tokenizer.encode(TEXT)
        parts = {
            f"layer {i} head {h}": {f"h.{i}.attn.z": zero(heads=[h])} for i in range(4) for h in range(4)
        }
        parts |= {f"layer {i} MLP": {f"h.{i}.mlp.out": zero()} for i in range(4)}
        losses = {name: tiny.trace(ids, edits=edits)["loss"][:-1] for name, edits in parts.items()}
        best = sorted(parts, key=lambda name: -losses[name].mean())[:5]
        said = page.text(".switch-board [role=status]")
        assert re.findall(r"layer \d+ (?:MLP|head \d+)", said) == best
        page.page.get_by_label("loss of").select_option("token")
        page.show(pos=9)
        page.page.get_by_role("button", name="Try each part").click()
        page.until(
            "() => /position 9/.test(document.querySelector('.switch-board [role=status]').textContent)"
        )
        best = sorted(parts, key=lambda name: -losses[name][8])[:5]
        said = page.text(".switch-board [role=status]")
        assert re.findall(r"layer \d+ (?:MLP|head \d+)", said) == best
        page.page.get_by_label("loss of").select_option("rest")
        assert page.text(".switch-board [role=status]") == ""  # what was said is of another loss
        page.page.get_by_role("button", name="Try each part").click()
        page.until(
            "() => /from 9 on/.test(document.querySelector('.switch-board [role=status]').textContent)"
        )
        best = sorted(parts, key=lambda name: -losses[name][8:].mean())[:5]
        said = page.text(".switch-board [role=status]")
        assert re.findall(r"layer \d+ (?:MLP|head \d+)", said) == best

        page.page.get_by_label("loss of").select_option("token")
        page.page.get_by_role("button", name="layer 1 head 0", exact=True).click()
        page.until("() => gpt2np.run.model.edits.length === 1")
        page.page.get_by_role("button", name="Try each part").click()
        page.until(
            "() => /1 off before/.test(document.querySelector('.switch-board [role=status]').textContent)"
        )
        first = parts.pop("layer 1 head 0")
        parts |= {name: edits | first for name, edits in parts.items() if "h.1.attn.z" not in edits}
        parts |= {f"layer 1 head {h}": {"h.1.attn.z": zero(heads=[0, h])} for h in (1, 2, 3)}
        losses = {name: tiny.trace(ids, edits=edits)["loss"][8] for name, edits in parts.items()}
        best = sorted(parts, key=lambda name: -losses[name])[:5]
        said = page.text(".switch-board [role=status]")
        assert re.findall(r"layer \d+ (?:MLP|head \d+)", said) == best


@pytest.mark.needs("playwright", "chromium")
def test_what_the_open_panel_needs_comes_first_and_its_time_is_measured(chromium, live_path, tiny):
    first = """async given => {
        const soon = [], tell = part => soon.push(part), all = await gpt2np.engine.ask("run", given, tell);
        const known = soon[0].arrays["lens:id"].known.reduce((a, b) => a + b, 0);
        return [soon.length, known, "push" in soon[0].arrays, Object.keys(soon[0].header.missing),
            Object.keys(all.header.missing), all.arrays["lens:id"].known.length];
    }"""
    with visit(chromium, live_path) as page:
        settle(page)
        ids = tiny.tokenizer.encode(TEXT)
        n = len(ids)
        for panel, known, push, missing in (
            ("map", 9, False, ["lens", "follow", "push"]),  # one position at every point
            ("lens", 5 * n + 4, False, ["follow", "push"]),  # and every position after every layer
            ("contributions", 9, True, ["lens", "follow"]),
        ):
            found = page.js(first, {"ids": ids, "off": {}, "shown": {"panel": panel, "pos": 3}})
            assert found == [1, known, push, missing, [], 9 * n]
        page.show(pos=2, panel="lens")
        page.page.locator(".others button").first.click()
        page.until("() => performance.getEntriesByName('drawn').length")
        settle(page)
        assert page.js("() => performance.getEntriesByName('drawn')[0].duration") < 10_000
        page.page.get_by_label("also between attention and MLP").check()
        assert page.page.locator("#panel-lens tbody tr").count() >= 9


HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "{{weights}} ${1} `x`",
    "\u202eabc\u2066 \x00\x07 \ufeff",
    "&lt;b&gt; <b>bold</b>",
    "e" + "\u0301" * 40,
]


@pytest.mark.needs("playwright", "chromium")
def test_hostile_text_stays_text(chromium, tmp_path, tiny):
    path, first = tmp_path / "hostile.html", "</script><b>{{style}}</b><!--"
    live_page(tiny, path, prompt=first)
    elements = "() => document.querySelectorAll('script, img, b').length"
    with visit(chromium, path) as page:
        settle(page)
        n = page.js(elements)
        assert page.js("() => gpt2np.run.prompt") == first == page.page.locator("textarea").input_value()
        for text in HOSTILE:
            ids = tiny.tokenizer.encode(text)
            page.page.locator("textarea").fill(text)
            page.until(f"() => String(gpt2np.run.ids) === '{','.join(map(str, ids))}'")
            settle(page)
            for panel in ("map", "attention", "lens", "changes"):
                page.show(panel=panel)
            page.show(panel="map")
            assert page.js(elements) == n


@pytest.mark.needs("playwright", "chromium")
def test_a_text_that_cannot_be_run_is_named_and_the_last_stays(chromium, live_path):
    with visit(chromium, live_path) as page:
        settle(page)
        page.page.locator("textarea").fill("")
        page.until("() => /no text to read/.test(document.querySelector('.status').textContent)")
        page.page.locator("textarea").fill(" the" * 300)
        page.until("() => /has 300 tokens.*holds 256/.test(document.querySelector('.status').textContent)")
        assert page.js("() => gpt2np.run.prompt") == TEXT
        type_in(page, "It is")
        assert "2 tokens of at most 256" in page.text(".status")


@pytest.mark.needs("playwright", "chromium")
def test_a_worker_of_the_page_can_reach_no_network_either(chromium, live_path):
    """Why `worker-src blob:` is safe: the policy of the page holds in what it makes."""
    context = chromium.new_context()
    page = context.new_page()
    page.goto(live_path.as_uri())
    page.wait_for_selector(".ribbon")
    code = """
        addEventListener("securitypolicyviolation", event => postMessage(event.effectiveDirective));
        fetch("https://example.com/").catch(() => {});
    """
    blocked = page.evaluate(
        """code => new Promise(resolve => {
            const worker = new Worker(URL.createObjectURL(new Blob([code])));
            worker.onmessage = event => resolve(event.data);
        })""",
        code,
    )
    assert blocked == "connect-src"
    context.close()


@pytest.mark.needs("playwright", "chromium")
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_memory_stays_flat_over_500_edits(chromium, live_path):
    with visit(chromium, live_path) as page:
        settle(page)
        session = page.context.new_cdp_session(page.page)

        def heap():
            session.send("HeapProfiler.collectGarbage")
            return session.send("Runtime.getHeapUsage")["usedSize"], session.send("Memory.getDOMCounters")[
                "nodes"
            ]

        sizes = []
        for i in range(501):
            type_in(page, f"Elizabeth was {i} years old and not sorry that Mr. Darcy was {i % 7}")
            if i in (20, 500):
                sizes.append(heap())
        (first, nodes), (last, more) = sizes
        assert last < 1.2 * first + 2_000_000
        assert more < 1.5 * nodes
