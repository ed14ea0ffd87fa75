"""How a capture is cut into shards, and what its plan says of prompts that are left out or are messages."""

import numpy as np
import pytest
from support import gemma2_checkpoint, gemma_tokenizer
from support.captured_folder import bytes_of

import gpt2np
from gpt2np.capture import open_capture
from gpt2np.capture.capture_plan import plan_capture
from gpt2np.capture.worker_model import WORTH_A_WORKER, n_workers, seconds_a_token
from gpt2np.errors import InputError


def of_lengths(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 2000, n).tolist() for n in lengths]


def seconds_of(plan, shard):
    return plan.tokens_run_of([shard]) * seconds_a_token(plan.model)


@pytest.mark.every(2)
@pytest.mark.parametrize("seconds", [0.3, 1.5, 4, 9, 40])
@pytest.mark.parametrize("positions", ["all", "first", "0:40"])
def test_workers_have_shards_where_they_pay_off(tiny, seconds, positions):
    tokens = int(seconds / seconds_a_token(tiny))
    lengths = [1] * tokens if positions == "first" else [40] * (tokens // 40)
    plan = plan_capture(tiny, of_lengths(lengths), keep="embed", positions=positions)
    n = len(plan.shards)
    assert max(1, int(seconds) - 1) <= n <= max(1, seconds)
    took = [seconds_of(plan, shard) for shard in plan.shards]
    assert max(took) <= 1.05 * seconds / n + 0.05
    worth = max(1, int(sum(took) / WORTH_A_WORKER))
    assert n_workers(tiny, worth, n, sum(took)) == worth  # there is a shard for each


def test_a_long_capture_has_64_shards_at_least(tiny):
    tokens = int(80 / seconds_a_token(tiny))
    plan = plan_capture(tiny, of_lengths([200] * (tokens // 200)), keep="embed", positions="last")
    assert 60 <= len(plan.shards) <= 64
    assert len({shard.prompts for shard in plan.shards[:-1]}) == 1


def test_a_size_that_is_given_is_kept_to(tiny):
    prompts = of_lengths([40] * 2000)
    plan = plan_capture(tiny, prompts, keep="embed", positions="last", shard_bytes=256_000_000)
    assert len(plan.shards) == 1
    assert len(plan_capture(tiny, prompts, keep="embed", positions="last").shards) > 4


def test_shards_do_not_cost_what_shared_beginnings_save(tiny):
    shared = list(range(200))
    prompts = [[*shared, i % 2000, i // 2000] for i in range(2000)]
    plan = plan_capture(tiny, prompts, positions="last")
    assert len(plan.tokens.ids) > 30 / seconds_a_token(tiny)  # of many seconds, if each ran alone
    assert len(plan.shards) <= 5
    assert plan.tokens_run < 1.2 * plan_capture(tiny, prompts, positions="last", shard_bytes=10**9).tokens_run


@pytest.fixture
def chatting(tmp_path):
    folder = gemma2_checkpoint.write(tmp_path / "m", vocab_size=440, max_position_embeddings=64)
    return gpt2np.load(gemma_tokenizer.write(folder))


def test_texts_may_be_messages(chatting, tmp_path):
    texts = ["the cat", "hello"]
    chatting.capture(texts, tmp_path / "a", keep="embed", chat=True)
    captured = open_capture(tmp_path / "a")
    assert [captured.token_ids(i).tolist() for i in range(2)] == [chatting.chat_prompt(t) for t in texts]
    (tmp_path / "texts.txt").write_text("the cat\n\nhello\n")
    done = chatting.capture(tmp_path / "texts.txt", tmp_path / "b", keep="embed", chat=True, skip_bad=True)
    assert [(bad.prompt, bad.place) for bad in done.skipped] == [(1, "line 2")]
    shard = "shard_00000.safetensors"
    assert bytes_of(tmp_path / "a")[shard] == bytes_of(tmp_path / "b")[shard]
    with pytest.raises(InputError, match="holds another capture"):
        chatting.capture(texts, tmp_path / "a", keep="embed")


def test_what_is_no_message(chatting, tiny, tmp_path):
    for model, texts, options, says in (
        (chatting, ["hello", [5, 6]], {}, r"prompt 1 is no text, as a user's message is: \[5, 6\]"),
        (chatting, ["hello"], {"window": 8}, "chat: takes whole messages"),
        (chatting, ["hello " * 80], {}, "prompt 0 has"),
        (tiny, ["hello"], {"skip_bad": True}, "gpt2 has no chat template"),
    ):
        with pytest.raises(InputError, match=says):
            model.capture(texts, tmp_path / "caps", chat=True, **options)
    assert not (tmp_path / "caps").exists()
