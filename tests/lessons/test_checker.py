"""What a check promises: plain words, the learner's own line, a nearer hint, and never the true value."""

import re
import threading
import time

import numpy as np
import pytest

from gpt2np import lessons
from gpt2np.errors import InputError
from gpt2np.lessons import by_site, checker, showing, time_limit
from gpt2np.lessons.exercise import Finding
from gpt2np.lessons.exercises import exercise
from gpt2np.lessons.models import model_of_lessons
from gpt2np.lessons.verdict import Verdict
from gpt2np.reference import search_limit

RIGHT = "✓ attention.scores: right."


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch):
    monkeypatch.setattr(checker, "_told", {})


def scores(q, k):
    s = np.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
    return np.where(np.triu(np.ones(s.shape[1:], bool), 1), -np.inf, s)


def unscaled(q, k):
    return scores(q, k) * 48**0.5


def judge(function, name="attention.scores", **options):
    return checker.judge(name, function, **options)


# -- states -------------------------------------------------------------------------------------------------


def test_a_stub_is_not_written_yet():
    verdict = judge(lambda q, k: lessons.todo)
    assert verdict == Verdict("attention.scores", "todo")
    assert str(verdict).startswith("… attention.scores: not written yet.")
    assert judge(lambda qkv, n: (lessons.todo,) * 3, "attention.split").state == "todo"


def test_right_is_said_in_one_line():
    verdict = judge(scores)
    assert (verdict.state, verdict.right, verdict.mistake, verdict.hint, verdict.where) == (
        *("right", True, None, ""),
        "",
    )
    assert str(verdict) == RIGHT


def helper(x):
    return x @ x  # shapes do not fit


def uses_helper(q, k):
    return helper(q)


def uses_numpy(q, k):
    return np.linalg.solve(q, k)


@pytest.mark.parametrize(
    ("function", "where"),
    [
        (uses_helper, r"line \d+, `return x @ x  # shapes do not fit`: ValueError: matmul: .*"),
        (uses_numpy, r"line \d+, `return np\.linalg\.solve\(q, k\)`: (LinAlgError|ValueError): .*"),
        (lambda q: q, r"TypeError: .*takes 1 positional argument but 2 were given"),
        (lambda q, k: 1 / 0, r"line \d+, `.*1 / 0.*`: ZeroDivisionError: division by zero"),
        (np.linalg.inv, r"TypeError: .*"),  # no Python source
        (lambda q, k: exec("raise KeyError()"), r"line \d+, `.*`: KeyError"),
        (lambda q, k: exec("raise ValueError('a\\nb\\x1b[31m')"), r"line .*`: ValueError: a b\\x1b\[31m"),
    ],
)
def test_an_exception_shows_the_learners_own_line(function, where):
    verdict = judge(function)
    assert verdict.state == "raised"
    assert re.fullmatch(where, verdict.where), verdict.where
    assert "gpt2np" not in verdict.where
    assert "\x1b" not in str(verdict)


def test_ctrl_c_stops_a_check():
    def interrupted(q, k):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge(interrupted)


def endless(q, k):
    n = 0
    while n < len(q):
        n += 0


def waits(q, k):
    while True:
        time.sleep(0.01)


def endless_for_the_second(q, k):
    return scores(q, k) if len(q) == 12 else endless(q, k)


@pytest.fixture
def _soon(monkeypatch):
    monkeypatch.setattr(time_limit, "SECONDS", 0.2)
    monkeypatch.setattr(time_limit, "WAITING", 5)


@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize(
    ("function", "where"),
    [
        (endless, r"it was at line \d+, `(while n < len\(q\):|n \+= 0)`"),
        (waits, r"it was at line \d+, `(while True:|time\.sleep\(0\.01\))`"),
        (endless_for_the_second, r"for the text 'Doctor .*V': it was at line \d+, `.*`"),
    ],
)
def test_a_function_without_an_end_is_stopped_and_says_where(function, where):
    verdict = judge(function)
    assert verdict.state == "stopped"
    assert re.fullmatch(where, verdict.where), verdict.where
    assert verdict.hint.endswith("?")
    assert "✗ attention.scores: your function was stopped: it had not ended" in str(verdict)
    assert judge(scores).right  # nothing of it is left behind
    for each in threading.enumerate():
        if each.name == "gpt2np time limit":  # whose watch is over
            each.join(10)
            assert not each.is_alive()


@pytest.mark.usefixtures("_soon")
def test_what_swallows_every_exception_is_stopped_again():
    def gives_up_at_last(q, k):
        for _ in range(2):
            try:
                endless(q, k)
            except:  # noqa: E722  # as learners write it
                continue
        return endless(q, k)

    assert judge(gives_up_at_last).state == "stopped"


@pytest.mark.usefixtures("_soon")
def test_another_thread_may_check_as_well():
    found = []
    thread = threading.Thread(target=lambda: found.append(judge(endless).state))
    thread.start()
    thread.join()
    assert found == ["stopped"]


def test_what_ends_in_time_is_left_alone(monkeypatch):
    monkeypatch.setattr(time_limit, "_LOOKS", 0.001)
    for _ in range(20):
        assert judge(scores).right


RAGGED, WANTED = [[1.0], [1.0, 2.0]], "[head, query, key] = (4, 12, 12)"


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda q, k: scores(q, k).transpose(1, 2, 0), f"{WANTED}, yours is (12, 12, 4)"),
        (lambda q, k: scores(q, k)[0], f"{WANTED}, yours is (12, 12)"),
        (lambda q, k: 1.0, f"{WANTED}, yours is ()"),
        (lambda q, k: None, f"{WANTED}, yours is None: does the function end in a return?"),
        (lambda q, k: "right", f"{WANTED} of float32 or float64, yours is a str"),
        (lambda q, k: RAGGED, f"{WANTED} of float32 or float64, yours is a list of 2"),
        (lambda q, k: scores, f"{WANTED} of float32 or float64, yours is a function"),
        (lambda q, k: scores(q, k) > 0, f"{WANTED} of float32 or float64, yours is an array of bool"),
        (lambda q, k: scores(q, k) + 0j, f"{WANTED} of float32 or float64, yours is an array of complex128"),
        (
            lambda q, k: scores(q, k).astype("f2"),
            f"{WANTED} of float32 or float64, yours is an array of float16",
        ),
        (lambda q, k: {"scores": scores(q, k)}, f"{WANTED} of float32 or float64, yours is a dict of 1"),
    ],
)
def test_a_wrong_form_is_said_with_both(function, said):
    verdict = judge(function)
    assert (verdict.state, verdict.where) == ("shape", said)
    assert said in " ".join(str(verdict).split())


def test_a_result_that_an_exercise_cannot_read_is_said_to_be_one(monkeypatch):
    def judge_of_nothing(*arguments):
        raise AttributeError("steps")

    monkeypatch.setattr(by_site.AtSite, "judge", judge_of_nothing)
    verdict = judge(lambda q, k: {"a": 1})
    assert (verdict.state, verdict.where) == ("shape", "your result cannot be read: it is a dict of 1")


def test_several_results_are_named():
    def two(qkv, n_head):
        return qkv, qkv

    assert judge(two, "attention.split").where == "your function must return 3 arrays, as in `return a, b`"

    def by_head(qkv, n_head):
        return tuple(x.reshape(len(qkv), n_head, -1).swapaxes(0, 1) for x in np.split(qkv, 3, axis=1))

    where = judge(by_head, "attention.split").where
    assert where == "q: [pos, head, d_head] = (12, 4, 48), yours is (4, 12, 48)"


def test_lists_and_other_floats_are_numbers():
    assert judge(lambda q, k: scores(q, k).tolist()).right
    assert judge(lambda q, k: scores(q, k).astype(np.longdouble)).right
    assert judge(lambda q, k: np.asfortranarray(scores(q, k))).right
    assert judge(lambda q, k: np.ma.masked_array(scores(q, k))).right


# -- what it may not do -------------------------------------------------------------------------------------


def test_what_a_function_does_to_its_inputs_harms_nobody():
    def spoils(q, k):
        q *= 0
        k += 7
        return scores(q, k)

    before = [np.array(x) for x in lessons.inputs("attention.scores")]
    assert judge(spoils).state == "wrong"
    q, _ = lessons.inputs("attention.scores")
    q *= 0
    after = list(lessons.inputs("attention.scores"))
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    assert judge(scores).right


def test_weights_are_given_as_copies():
    def spoils(pattern, v, weight, bias):
        weight[:] = 0
        bias[:] = 0
        return np.zeros((len(v), len(bias)))

    def mix(pattern, v, weight, bias):
        return np.einsum("hqk,khd->qhd", pattern, v).reshape(len(v), -1) @ weight + bias

    assert judge(spoils, "attention.mix").state == "wrong"
    assert judge(mix, "attention.mix").right


def test_the_true_value_is_never_said():
    def one_off(q, k):
        s = scores(q, k)
        s[2, 7, 4] = 12345.678
        return s

    verdict = judge(one_off)
    assert verdict.where == "worst at head 2, query 7 (`·and`), key 4 (`ber`) (1 of 576 are wrong)"
    true = exercise("attention.scores").cases(checker.model_of_lessons())[0]
    value = f"{scores(*true.arguments.values())[2, 7, 4]:.3f}"
    assert value[:4] not in str(verdict) + repr(verdict) + verdict._repr_html_()
    assert "12345" not in str(verdict)


def test_a_function_for_one_text_only_is_found_out():
    hidden = np.triu(np.ones((12, 12), bool), 1)

    def for_twelve_tokens(q, k):
        return np.where(hidden, -np.inf, np.einsum("qhd,khd->hqk", q, k) / 48**0.5)

    verdict = judge(for_twelve_tokens)
    assert verdict.state == "raised"
    assert verdict.where.startswith("for the text 'Doctor Vesh is here. Send Doctor V': line ")
    answer = scores(*lessons.inputs("attention.scores"))
    assert not judge(lambda q, k: answer).right


# -- hints --------------------------------------------------------------------------------------------------


def test_the_second_hint_is_nearer_and_the_last_one_stays():
    hints = [lessons.check("attention.scores", unscaled).hint for _ in range(3)]
    assert hints[0] != hints[1] == hints[2]
    assert lessons.check("attention.scores", scores).right
    assert lessons.check("attention.scores", unscaled).hint == hints[0]  # begun anew


def test_the_nearer_hint_can_be_asked_for():
    near = judge(unscaled, nearer=True).hint
    assert judge(unscaled).hint == judge(unscaled).hint != near  # which does not count
    assert [lessons.check("attention.scores", unscaled).hint for _ in range(2)][1] == near


NO_MISTAKE = [
    ("raised", lambda q, k: 1 / 0),
    ("raised", lambda q, k: q @ k),
    ("shape", lambda q, k: q),
    ("shape", lambda q, k: "scores"),
    ("wrong", lambda q, k: np.sin(scores(q, k) + 1)),
]


@pytest.mark.parametrize(("state", "function"), NO_MISTAKE)
def test_where_no_mistake_is_known_there_is_a_nearer_question_too(state, function):
    first, near = judge(function), judge(function, nearer=True)
    assert (first.state, first.mistake) == (state, None)
    assert first.where == near.where
    assert first.hint != near.hint
    assert first.hint.endswith("?")
    assert near.hint.endswith("?")
    assert [lessons.check("attention.scores", function).hint for _ in range(3)] == [
        first.hint,
        near.hint,
        near.hint,
    ]


def test_each_mistake_has_its_own_count():
    first = lessons.check("attention.scores", unscaled).hint
    assert (
        lessons.check("attention.scores", lambda q, k: scores(q, k) / 48**0.5).mistake
        == "scores-scaled-by-d-head"
    )
    assert lessons.check("attention.scores", unscaled).hint != first


def test_what_has_no_name_gets_a_question_all_the_same():
    rng = np.random.default_rng(0)
    verdict = judge(lambda q, k: scores(q, k) + rng.normal(0, 0.1, (q.shape[1], len(q), len(k))))
    assert (verdict.state, verdict.mistake) == ("wrong", None)
    assert verdict.hint == exercise("attention.scores").look
    assert "No mistake that is known here gives this" not in str(verdict)  # not all were tried
    assert "Not all known mistakes were tried." in " ".join(str(verdict).split())


def test_a_search_that_came_to_its_end_says_so(monkeypatch):
    monkeypatch.setattr(by_site, "FORMS", 100_000)
    monkeypatch.setattr(by_site.AtSite, "forms", 100_000)
    rng = np.random.default_rng(0)
    verdict = judge(lambda pattern, v, weight, bias: rng.normal(0, 1, (len(v), len(bias))), "attention.mix")
    assert not verdict.ended
    assert "No mistake that is known here gives this." in str(verdict)


@pytest.mark.parametrize("name", ["scores", "pattern"])
def test_what_is_found_does_not_depend_on_how_busy_the_machine_is(monkeypatch, name):
    def four_seen(*arrays):  # a mistake that only the catalogue knows
        s = scores(*arrays) if name == "scores" else np.array(arrays[0])
        s[:, np.tri(*s.shape[1:], -4, dtype=bool) | np.triu(np.ones(s.shape[1:], bool), 1)] = -np.inf
        return s if name == "scores" else softmax(s + 100 * np.triu(np.ones(s.shape[1:]), 1))

    seconds = iter(range(0, 10**9, 1000))
    found = judge(four_seen, name)
    monkeypatch.setattr(search_limit.time, "thread_time", lambda: float(next(seconds)))
    assert judge(four_seen, name) == found


UPPER = np.triu(np.ones((12, 12), bool), 1)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def changed(where, value):
    """Right scores, but for those at these places."""

    def function(q, k):
        s = scores(q, k)
        n = len(q)
        return np.where(where(n), value, s)

    return function


@pytest.mark.parametrize(
    ("function", "hint"),
    [
        (changed(lambda n: np.triu(np.ones((n, n), bool), 1), 3.0), "who"),
        (changed(lambda n: np.eye(n, dtype=bool), 0.25), "itself"),
        (changed(lambda n: np.tri(n, k=-5, dtype=bool) & (np.arange(n) % 3 == 1), -np.inf), "may the second"),
        (changed(lambda n: np.tri(n, k=-2, dtype=bool), 0.125), "which 48 products"),
    ],
    ids=["future", "itself", "hidden", "past"],
)
def test_what_is_asked_depends_on_where_scores_are_wrong(monkeypatch, function, hint):
    monkeypatch.setattr(by_site, "FORMS", 1)
    verdict = judge(function)
    assert verdict.mistake is None
    assert hint in verdict.hint.replace("nobody", "who")


@pytest.mark.parametrize(
    ("function", "hint"),
    [
        (lambda x: np.full_like(x, 0.125), "future"),
        (lambda x: softmax(np.where(UPPER[: x.shape[1], : x.shape[1]], -np.inf, x)) * 0.7, "add up to"),
        (lambda x: softmax(np.where(UPPER[: x.shape[1], : x.shape[1]], -np.inf, x * x)), "how large"),
        (lambda x: np.where(np.eye(x.shape[1]), np.nan, 0 * x), "no numbers"),
    ],
    ids=["future", "sum", "size", "nan"],
)
def test_what_is_asked_depends_on_how_shares_are_wrong(monkeypatch, function, hint):
    monkeypatch.setattr(by_site, "FORMS", 1)
    verdict = judge(function, "attention.pattern")
    assert verdict.mistake is None
    assert hint in verdict.hint


def test_a_wrong_form_is_asked_about_the_form():
    verdict = judge(lambda q, k: scores(q, k).transpose(1, 2, 0))
    assert verdict.hint == exercise("attention.scores").form
    assert judge(lambda q, k: None).hint == ""  # "does the function end in a return?"
    assert judge(lambda q, k: None).where.endswith("?")


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("scores", lambda q, k: q @ k.T),
        ("scores", lambda q, k: np.einsum("qd,kd->qk", q, k)),
        ("scores", lambda q, k: scores(q, k) + np.zeros(5)),
        ("mix", lambda pattern, v, weight, bias: pattern @ v),
        ("split", lambda qkv, n_head: qkv.reshape(3, 5, n_head, -1)),
        ("split", lambda qkv, n_head: np.split(qkv, 5, axis=1)),
        ("pattern", lambda products: products / products.sum(-1)),
    ],
)
def test_arrays_that_do_not_fit_are_asked_which_axes_belong_together(name, function):
    verdict = judge(function, f"attention.{name}")
    assert verdict.state == "raised"
    assert verdict.hint == exercise(f"attention.{name}").fit
    assert "ValueError" in verdict.where  # NumPy's own words stay


def test_another_error_gets_no_question_about_axes():
    assert judge(lambda q, k: [1, 2].index(7)).hint == checker.STOPPED_AT
    assert judge(lambda q, k: 1 / 0).hint == checker.STOPPED_AT


def test_right_here_but_not_always():
    def overflows(products):
        e = np.exp(np.where(np.triu(np.ones(products.shape[1:], bool), 1), -np.inf, products))
        return e / e.sum(-1, keepdims=True)

    verdict = judge(overflows, "attention.pattern")
    assert (verdict.state, verdict.mistake) == ("suspicious", "softmax-without-maximum")
    assert str(verdict).startswith("? attention.pattern: right here, but not always.\n  Where all products")


# -- how it is said -----------------------------------------------------------------------------------------


def test_a_script_prints_the_verdict_and_a_notebook_shows_it(capsys):
    verdict = lessons.check("attention.scores", scores)
    assert verdict.right
    assert capsys.readouterr().out == f"{RIGHT}\n"
    shown = []
    with showing.collecting(shown.append):
        lessons.check("attention.scores", scores)
        lessons.show("a", "b")
    assert capsys.readouterr().out == ""
    assert shown == ["a", "b"]  # the verdict is the value of the cell


def test_a_verdict_in_html_is_announced_and_escaped():
    html = Verdict("attention.scores", "raised", "line 1, `a < b & c`: NameError", hint="Why?")._repr_html_()
    assert 'role="status" aria-live="polite"' in html
    assert "<code>a &lt; b &amp; c</code>" in html
    assert "<b>✗ attention.scores</b>" in html
    assert "Why?" in html


def test_the_function_name_alone_is_a_name():
    assert judge(scores, "scores").exercise == "attention.scores"


@pytest.mark.parametrize("name", ["attention.score", "attentions.scores", "score"])
def test_a_name_that_is_none_is_refused_with_the_nearest(name):
    with pytest.raises(InputError, match=r"is no exercise: did you mean 'attention\.scores'"):
        judge(scores, name)
    with pytest.raises(InputError, match="is no exercise"):
        lessons.inputs(name)


@pytest.mark.parametrize("name", ["", "x", None, 7, "attention"])
def test_what_is_no_name_at_all_is_refused(name):
    with pytest.raises(InputError, match="is no exercise"):
        judge(scores, name)


@pytest.mark.parametrize("given", [np.zeros(3), None, "scores", 1.0])
def test_a_result_in_the_place_of_a_function_is_refused(given):
    with pytest.raises(InputError, match="is no function: give scores itself, without brackets"):
        lessons.check("attention.scores", given)


def test_inputs_say_what_they_are():
    given = lessons.inputs("attention.mix")
    assert next(iter(given)) is given.pattern is given["pattern"]
    assert str(given).splitlines() == [
        "inputs of attention.mix",
        "  pattern  [head, query, key] = (4, 12, 12)",
        "  v        [key, head, d_head] = (12, 4, 48)",
        "  weight   [n_embd, n_embd] = (192, 192)",
        "  bias     [n_embd] = (192,)",
    ]
    assert all(array.dtype == np.float64 for array in given)


def test_another_model_can_be_judged(tiny):
    assert judge(scores, model=tiny).right
    assert judge(unscaled, model=tiny).mistake == "scores-unscaled"


def test_what_is_in_the_cache_is_available(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert lessons.available("tiny")
    assert not lessons.available("nobody/nothing")
    assert not lessons.available(str(tmp_path / "not there"))


@pytest.mark.parametrize(
    ("states", "told"),
    [
        (["right", "right"], 1),
        (["wrong", "wrong a"], 0),
        (["suspicious", "wrong a"], 1),  # hardly off, and without a name: a later text knows it
        (["suspicious", "wrong", "right"], 0),
        (["suspicious a", "wrong b"], 0),
        (["right", "suspicious", "suspicious"], 1),
    ],
)
def test_which_text_is_told_of(monkeypatch, states, told):
    said = [state.partition(" ") for state in states]
    findings = [Finding(state, mistake=mistake or None) for state, _, mistake in said]
    monkeypatch.setattr(checker, "attempts_of", lambda *_: list(range(len(states))))
    monkeypatch.setattr(checker, "_found", lambda wanted, function, attempt, *_: findings[attempt])
    wanted = exercise("next_word.logits")
    assert checker._first_not_right(wanted, len, model_of_lessons()) == (told, findings[told])
