"""A user's script for type checkers, never run: what is right says its type, what is wrong is marked so.

A mark names the error that mypy reports on its line, and the one that pyright reports.
"""

from collections.abc import KeysView
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import gpt2np
from gpt2np import Model, Plan, Trace
from gpt2np.analysis.attribution import attribution
from gpt2np.analysis.heads import head_scores, reads_and_writes
from gpt2np.analysis.interventions import Intervention, patch, zero
from gpt2np.analysis.lens import LogitLens, logit_lens
from gpt2np.analysis.named_array import NamedArray
from gpt2np.analysis.patching import logit_difference, path_sweep, sweep
from gpt2np.capture import Captured, open_capture
from gpt2np.generation.decoding import Generation
from gpt2np.generation.generated import Generated, Step, Token
from gpt2np.generation.scoring import Score
from gpt2np.reference.comparison import Comparison
from gpt2np.viewer import Page

# -- right ----------------------------------------------------------------------------------------

model = gpt2np.load("tiny")
assert_type(model, Model)
assert_type(model("Elizabeth was"), NDArray[Any])
assert_type(model.trace("Elizabeth was"), Trace)
assert_type(model.trace([1, 2, 3], keep=["attn.*", "logits"]), Trace)
assert_type(model.trace(np.array([1, 2, 3]), keep={"patterns": "*", "dtype": "float16"}), Trace)
assert_type(model.trace([np.int64(1)], out="trace.safetensors", stop_at_layer=2), Trace)
assert_type(model.trace(["one", "two"]), list[Trace])
assert_type(model.trace(("one", [2, 3]), out="folder", timings=True), list[Trace])
assert_type(model.trace([[1, 2], [3]], keep=lambda name: name.endswith("z")), list[Trace])
assert_type(model.generate("a"), Generation[Generated])
assert_type(model.generate("a", temperature=0.8, top_k=50, seed=1).finish(), Generated)
assert_type(model.generate(["a", "b"], seed=[1, None], keep="*").finish(), list[Generated])
assert_type([token for token in model.generate("a", eos=None, stop=["."], ledger="full")], list[Token])

trace = model.trace("Elizabeth was", edits={"h.1.attn.z": zero(heads=[0], positions=slice(1, 3))})
done = model.generate("a", past=trace, on_overflow="slide", early_stopping="never").finish()
assert_type(trace["h.0.attn.pattern"], NDArray[Any])
assert_type(trace["pattern", -1], NDArray[Any])
assert_type(trace.keys(), KeysView[str])
assert_type([name for name in trace], list[str])
assert_type(dict(trace.items()), dict[str, NDArray[Any]])
assert_type(len(trace) + trace.nbytes, int)
assert_type(trace.top(3), list[tuple[str, int, float]])
assert_type(trace.model, Model | None)
assert_type(Trace.open("trace.safetensors", model), Trace)
assert_type(model.plan("a"), Plan)
assert_type(done.text + done.response.text, str)
assert_type(done.steps[0], Step)
assert_type(done.steps[0]["logits"], NDArray[Any])
assert_type(model.score("a b").perplexity, float)
assert_type(model.score([1, 2], stride=1), Score)
captured = open_capture("caps")
assert_type(captured, Captured)
assert_type(captured["h.3.resid_post"][[4, 0, -1], :, 3], NDArray[Any])
assert_type(captured["resid_post", 3][2:8], NDArray[Any])
assert_type(captured.rows(-1), dict[str, NDArray[Any]])
assert_type([rows for rows in captured.batches("h.3.resid_post", 64)], list[NDArray[Any]])
assert_type(next(captured.batches(["resid_post", "prompt"], 64, epochs=None)), dict[str, NDArray[Any]])
assert_type(captured.verify(model, sample=3).identical, bool | None)
assert_type(attribution(trace, (" a", 3), pos=-1), NamedArray)
assert_type(logit_lens(trace, " a"), LogitLens)
assert_type(head_scores(model).largest(3)[0][1], float)
assert_type(reads_and_writes(model, 0, 1)[0].reads[0].token, str)
assert_type(patch(trace, heads=3), Intervention)
assert_type(sweep("one", "two", logit_difference(1, 2), model=model), NamedArray)
assert_type(gpt2np.view(trace), Page)
assert_type(gpt2np.compare("dump.npz", model, [1, 2]).verdict, str)
assert_type(gpt2np.compare({"logits": trace["logits"]}, "tiny"), Comparison)
assert_type(gpt2np.analysis.lens.logit_lens(trace).rank, NamedArray)

# -- wrong ----------------------------------------------------------------------------------------

trace.tpo(3)  # wrong: attr-defined, reportAttributeAccessIssue
trace.top("3")  # wrong: arg-type, reportArgumentType
trace[3]  # wrong: index, reportArgumentType
trace["pattern", "1"]  # wrong: index, reportArgumentType
trace["logits"] = 3  # wrong: index, reportIndexIssue
trace["logits"].shpae  # wrong: attr-defined, reportAttributeAccessIssue
trace.stack(3)  # wrong: arg-type, reportArgumentType
trace.save(trace)  # wrong: arg-type, reportArgumentType
Trace.open("trace.safetensors", "tiny")  # wrong: arg-type, reportArgumentType
model.trace(3)  # wrong: call-overload, reportArgumentType
model.trace([["one"]])  # wrong: list-item, reportArgumentType
model.trace("a", kepe="*")  # wrong: call-overload, reportCallIssue
model.trace("a", keep=3)  # wrong: call-overload, reportArgumentType
model.trace("a", stop_at_layer="2")  # wrong: call-overload, reportArgumentType
model.trace(["a"]).top()  # wrong: attr-defined, reportAttributeAccessIssue
model.trace("a")[0].top()  # wrong: index, reportArgumentType
model.generate("a", tempreature=0.8)  # wrong: call-overload, reportCallIssue
model.generate("a", top_k="50")  # wrong: call-overload, reportArgumentType
model.generate("a", max_tokens=5)  # wrong: call-overload, reportCallIssue
model.generate("a", on_overflow="cut")  # wrong: call-overload, reportArgumentType
model.generate("a", ledger="fulll")  # wrong: call-overload, reportArgumentType
model.generate("a").text  # wrong: attr-defined, reportAttributeAccessIssue
model.generate("a").finish().txt  # wrong: attr-defined, reportAttributeAccessIssue
model.generate(["a"]).finish().text  # wrong: attr-defined, reportAttributeAccessIssue
done.steps.distribution  # wrong: attr-defined, reportAttributeAccessIssue
done.trace["logits"]  # wrong: index, reportOptionalSubscript
attribution(model, 3)  # wrong: arg-type, reportArgumentType
attribution(trace, 3.5)  # wrong: arg-type, reportArgumentType
logit_lens("Elizabeth was")  # wrong: arg-type, reportArgumentType
logit_lens(trace).probabilty  # wrong: attr-defined, reportAttributeAccessIssue
head_scores(trace)  # wrong: arg-type, reportArgumentType
zero(head=[0])  # wrong: call-arg, reportCallIssue
patch(model, heads=0)  # wrong: arg-type, reportArgumentType
sweep(3, trace, logit_difference(1, 2))  # wrong: arg-type, reportArgumentType
path_sweep("a", "b", logit_difference(1, 2), 3)  # wrong: arg-type, reportArgumentType
gpt2np.view("Elizabeth was")  # wrong: arg-type, reportArgumentType
gpt2np.load("tiny", dtype=3)  # wrong: arg-type, reportArgumentType
gpt2np.lod("tiny")  # wrong: attr-defined, reportAttributeAccessIssue
model.score(3)  # wrong: arg-type, reportArgumentType
model.plan("a").nbyts  # wrong: attr-defined, reportAttributeAccessIssue
