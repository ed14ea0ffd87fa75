"""The extraction guide's TypeScript interface: names, types under `tsc --strict`, data under Node."""

import functools
import http.server
import json
import os
import re
import resource
import subprocess
import threading

import numpy as np
import pytest
from support import command_line, needs
from support.random_model import random_model

import gpt2np
from gpt2np.architectures.gpt2.sites import SITES
from gpt2np.errors import InputError, TraceError
from gpt2np.export.typescript import FILES, interface, write_typescript
from gpt2np.tracing.sites import TYPESCRIPT

IDS = [3, 17, 17, 30, 0]

# The interface of the document, its comments left out.
DOCUMENT = """
interface FullGPT2Extraction {
  tokenIds: number[];
  tokens: string[];
  attentionMask: number[];
  tokenEmbeddings: Float32Array;
  positionEmbeddings: Float32Array;
  layers: LayerExtraction[];
  finalLayerNorm: Float32Array;
  logits: Float32Array;
}
interface LayerExtraction {
  layerIndex: number;
  query: Float32Array;
  key: Float32Array;
  value: Float32Array;
  rawAttentionScores: Float32Array;
  attentionWeights: Float32Array;
  attentionOutput: Float32Array;
  mlpHidden: Float32Array;
  mlpActivated: Float32Array;
  mlpOutput: Float32Array;
  hiddenState: Float32Array;
}
"""
SHAPES = {  # of a trace of GPT-2 small, as the document has them
    "tokenEmbeddings": "[seq, 768]",
    "positionEmbeddings": "[seq, 768]",
    "finalLayerNorm": "[seq, 768]",
    "logits": "[seq, 50257]",
    "query": "[seq, 12, 64]",
    "key": "[seq, 12, 64]",
    "value": "[seq, 12, 64]",
    "rawAttentionScores": "[12, seq, seq]",
    "attentionWeights": "[12, seq, seq]",
    "attentionOutput": "[seq, 768]",
    "mlpHidden": "[seq, 3072]",
    "mlpActivated": "[seq, 3072]",
    "mlpOutput": "[seq, 768]",
    "hiddenState": "[seq, 768]",
}
COMMENTS = (
    "Tokenization",
    "Embeddings",
    "Per-layer extractions (12 layers)",
    "Final outputs",
    "Attention",
    "MLP",
    "Residual",
)


@pytest.fixture(scope="module")
def trace(tiny):
    return tiny.trace("Elizabeth 😀 was")


@pytest.fixture(scope="module")
def folder(trace, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ts") / "out"
    assert write_typescript(trace, folder) == 4 + 10 * 4
    return folder


def test_the_interface_of_the_document():
    from gpt2np.architectures.gpt2.config import RELEASED
    from gpt2np.tracing.plan import Plan

    text = interface(Plan(RELEASED["gpt2"], 5))
    properties = re.findall(r"^  (\w+: [\w\[\]]+);", text, re.MULTILINE)
    expected = [line.strip()[:-1] for line in DOCUMENT.splitlines() if line.endswith(";")]
    assert properties == [*expected[:3], "positionIds: number[]", *expected[3:]]
    for name, shape in SHAPES.items():
        line = next(line for line in text.splitlines() if line.startswith(f"  {name}: Float32Array;"))
        assert line.endswith(f"// {shape}")
    assert [line[5:] for line in text.splitlines() if line.startswith("  // ")] == list(COMMENTS)
    assert sorted(SHAPES) == sorted(s.names[TYPESCRIPT][0] for s in SITES if TYPESCRIPT in s.names)


def test_files(folder, trace):
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    index = json.loads((folder / "extraction.json").read_text("utf-8"))
    assert index["tokens"] == trace.tokens
    assert index["tokenIds"] == trace.token_ids
    assert index["positionIds"] == list(range(len(trace.token_ids)))
    assert index["attentionMask"] == [1] * len(trace.token_ids)
    data = (folder / "extraction.bin").read_bytes()
    assert len(data) == index["byteLength"]
    for entry in index["arrays"]:
        key = (entry["name"], entry["layer"]) if entry["layer"] is not None else entry["name"]
        expected = trace[key]
        assert tuple(entry["shape"]) == expected.shape
        found = np.frombuffer(data, "<f4", expected.size, entry["byteOffset"])
        assert found.tobytes() == expected.tobytes()


def test_the_loader_is_short():
    loader = os.path.join(os.path.dirname(gpt2np.__file__), "export", "extraction.js")
    with open(loader, encoding="utf-8") as file:
        lines = file.readlines()
    assert len(lines) <= 60
    assert not any(line.startswith("import ") for line in lines)


# -- tsc ----------------------------------------------------------------------------------------------

OPTIONS = [
    "--strict",
    "--noEmit",
    "--target",
    "es2022",
    "--module",
    "esnext",
    "--moduleResolution",
    "bundler",
]

CONSUMER = """
import { loadExtraction, parseExtraction } from "./out/extraction.js";
import type { FullGPT2Extraction, LayerExtraction } from "./out/extraction.js";

namespace Document {DOCUMENT}

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const layers: Same<LayerExtraction, Document.LayerExtraction> = true;
const wholes: Same<keyof FullGPT2Extraction, keyof Document.FullGPT2Extraction | "positionIds"> = true;
export async function use(): Promise<Document.FullGPT2Extraction> {
  const loaded: FullGPT2Extraction = await loadExtraction(new URL("https://example.org/out/"));
  const parsed: FullGPT2Extraction = parseExtraction({}, new ArrayBuffer(8));
  const positions: number[] = parsed.positionIds;
  const weight: number = loaded.layers[0].attentionWeights[0];
  return layers && wholes && positions.length && weight ? loaded : parsed;
}
"""


def tsc(folder, *argv):
    command = [needs.tsc(), *OPTIONS, *argv]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.needs("tsc")
def test_tsc_accepts_the_interface_as_the_document_has_it(folder):
    exported = DOCUMENT.replace("interface", "export interface")
    (folder.parent / "use.ts").write_text(CONSUMER.replace("DOCUMENT", "\n" + exported))
    assert tsc(folder.parent, "use.ts") == (0, "")


@pytest.mark.needs("tsc")
def test_tsc_notices_a_wrong_use(folder):
    (folder.parent / "wrong.ts").write_text(
        'import type { LayerExtraction } from "./out/extraction.js";\n'
        "export const f = (layer: LayerExtraction): string => layer.query;\n"
        "export const g = (layer: LayerExtraction) => layer.querry;\n"
    )
    code, text = tsc(folder.parent, "wrong.ts")
    assert code != 0
    assert "TS2322" in text
    assert "querry" in text


@pytest.mark.needs("tsc")
def test_tsc_accepts_the_loader(folder):
    assert tsc(folder, "--allowJs", "--checkJs", "extraction.js") == (0, "")


# -- Node ---------------------------------------------------------------------------------------------

# Prints the document's object with every Float32Array as the hexadecimal of its bytes.
PRINT = """
import { loadExtraction, parseExtraction } from "./out/extraction.js";
import { readFile } from "node:fs/promises";
const hex = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("hex");
const show = (key, value) => (value instanceof Float32Array ? hex(value) : value);
const print = (value) => console.log(JSON.stringify(value, show));
"""


def node(folder, code, *argv):
    (folder.parent / "run.mjs").write_text(PRINT + code)
    return subprocess.run(
        ["node", "run.mjs", *argv], cwd=folder.parent, capture_output=True, text=True, timeout=60
    )


def check_extraction(text, trace):
    """The printed object against the trace, bit for bit."""
    found = json.loads(text)
    layers = found.pop("layers")
    assert found.pop("tokenIds") == trace.token_ids
    assert found.pop("tokens") == trace.tokens
    assert found.pop("attentionMask") == [1] * len(trace.token_ids)
    assert found.pop("positionIds") == list(range(len(trace.token_ids)))
    assert sorted(found) == ["finalLayerNorm", "logits", "positionEmbeddings", "tokenEmbeddings"]
    for name, value in found.items():
        assert value == trace[name].astype("<f4").tobytes().hex(), name
    assert [layer.pop("layerIndex") for layer in layers] == list(range(trace.config.n_layer))
    for i, layer in enumerate(layers):
        assert sorted([*layer, *found]) == sorted(SHAPES)
        for name, value in layer.items():
            assert value == trace[name, i].astype("<f4").tobytes().hex(), name


@pytest.mark.needs("node")
def test_node_loads_the_same_bits(folder, trace):
    done = node(folder, "print(await loadExtraction());")
    assert done.stderr == ""
    check_extraction(done.stdout, trace)


@pytest.mark.needs("node")
def test_the_arrays_are_views(folder, trace):
    code = """
    const index = JSON.parse(await readFile("out/extraction.json", "utf8"));
    const bytes = await readFile("out/extraction.bin");
    const copy = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
    const x = parseExtraction(index, copy);
    if (x.layers[1].query.buffer !== copy) throw new Error("copied");
    print(x);
    """
    done = node(folder, code)
    assert done.stderr == ""
    check_extraction(done.stdout, trace)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.mark.needs("node")
def test_it_loads_over_http_as_in_a_browser(folder, trace):
    handler = functools.partial(Quiet, directory=folder.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/out/"
        done = node(folder, "print(await loadExtraction(process.argv[2]));", url)
        missing = node(folder, "await loadExtraction(process.argv[2]);", url + "nowhere/")
        server.shutdown()
    assert done.stderr == ""
    check_extraction(done.stdout, trace)
    assert missing.returncode != 0
    assert re.search(r"nowhere/extraction\.(json|bin): 404", missing.stderr)  # whichever comes first


@pytest.mark.needs("node")
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("parseExtraction({}, new ArrayBuffer(8));", "schema is undefined, expected gpt2np.typescript/1"),
        ("parseExtraction(null, new ArrayBuffer(8));", "schema is undefined"),
        ("parseExtraction(index, new ArrayBuffer(8));", "extraction.bin has 8 bytes, expected"),
        ("parseExtraction(index, new Uint8Array(12));", "extraction.bin has 12 bytes, expected"),
    ],
)
def test_the_loader_notices_what_does_not_belong_together(folder, code, message):
    done = node(folder, f'const index = JSON.parse(await readFile("out/extraction.json", "utf8"));\n{code}')
    assert done.returncode != 0
    assert message in done.stderr


# -- the command line, and wrong input ----------------------------------------------------------------


def run(capsys, *argv):
    return command_line.run(capsys, "export", *argv)


def test_export(capsys, trace, folder, tmp_path):
    trace.save(tmp_path / "t.safetensors")
    argv = [tmp_path / "t.safetensors", "--to", "ts", "-o", tmp_path / "out"]
    for more in ([], ["--force"]):  # the second time over the first
        code, out, err = run(capsys, *argv, *more)
        assert (code, out) == (0, "")
        assert err.startswith(f"gpt2np: wrote {tmp_path / 'out'}, 44 arrays, ")
        for name in FILES:
            assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(FILES)
    assert run(capsys, *argv)[0] == 2


def test_other_precisions_become_float32(capsys, tiny64, tmp_path):
    trace = tiny64.trace("Elizabeth was", out=tmp_path / "t.safetensors")
    code, _, err = run(capsys, tmp_path / "t.safetensors", "--to", "ts", "-o", tmp_path / "out")
    assert code == 0
    assert "float64 becomes float32" in err
    data = np.fromfile(tmp_path / "out" / "extraction.bin", "<f4")
    assert data[: 2 * 192].tobytes() == trace["wte"][:2].astype("<f4").tobytes()


ENOUGH = "wte wpe attn.qkv attn.scores attn.pattern attn.out mlp.* resid_post ln_f logits".split()


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ("attn.*", "wte and"),
        (ENOUGH, None),
        ({"positions": slice(2)}, "kept 2 of 5 positions"),
    ],
)
def test_missing_sites(tmp_path, keep, message):
    trace = random_model(0, "float32").trace(IDS, keep=keep)
    if message is None:
        assert write_typescript(trace, tmp_path / "out") == 4 + 10 * 2
        return
    with pytest.raises(TraceError, match=message):
        write_typescript(trace, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["t.safetensors", "--to", "ts", "-o", "file"], "file: cannot be made"),
        (["t.safetensors", "--to", "ts", "-o", "file/a/b"], "file/a/b: cannot be made"),
        (["t.safetensors", "--to", "ts", "-o", "x", "--dialect", "hf"], "leave --dialect out"),
        (["nowhere.safetensors", "--to", "ts", "-o", "x"], "nowhere.safetensors"),
        (["part.safetensors", "--to", "ts", "-o", "x"], "did not keep"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(capsys, monkeypatch, tmp_path, argv, message):
    monkeypatch.chdir(tmp_path)
    model = random_model(0, "float32")
    model.trace(IDS, out="t.safetensors")
    model.trace(IDS, keep="mlp.*", out="part.safetensors")
    (tmp_path / "file").write_text("a file")
    before = sorted(p.name for p in tmp_path.iterdir())
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_parents_are_made_and_go_away_again_on_failure(capsys, trace, tmp_path):
    trace.save(tmp_path / "t.safetensors")
    argv = [str(tmp_path / "t.safetensors"), "--to", "ts", "-o", str(tmp_path / "a/b/c")]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        code, out, err = run(capsys, *argv)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, out) == (2, "")
    assert "cannot be written" in err
    assert [p.name for p in tmp_path.iterdir()] == ["t.safetensors"]
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match="File name too long"):
        write_typescript(trace, tmp_path / "a/b" / ("c" * 300))
    assert list((tmp_path / "a").iterdir()) == []
    assert run(capsys, *argv)[0] == 0
    assert sorted(p.name for p in (tmp_path / "a/b/c").iterdir()) == sorted(FILES)


def test_disk_full_leaves_what_was_there(trace, tmp_path):
    (tmp_path / "extraction.json").write_text("what was there")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(InputError, match=r"extraction\.bin: cannot be written"):
            write_typescript(trace, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["extraction.json"]
    assert (tmp_path / "extraction.json").read_text() == "what was there"
