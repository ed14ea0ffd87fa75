"""Which models of two files, commits or sets of weights are one."""

import pytest

from gpt2np.capture.worker_model import is_same_model


@pytest.mark.parametrize(
    ("then", "now", "same"),
    [
        ({"fingerprint": "a"}, {"fingerprint": "a", "weights": "w"}, True),
        ({"fingerprint": "a"}, {"fingerprint": "b", "weights": "w"}, False),
        ({"fingerprint": "a", "weights": "w"}, {"fingerprint": "b", "weights": "w"}, True),
        ({"fingerprint": "a", "weights": "v"}, {"fingerprint": "b", "weights": "w"}, False),
        ({"fingerprint": "a", "commit": "c"}, {"fingerprint": "b", "commit": "c"}, True),
        ({"fingerprint": "a", "commit": None}, {"fingerprint": "b", "commit": None}, False),
        (
            {"fingerprint": "a", "commit": "c", "replaced_weights": ["x"]},
            {"fingerprint": "b", "commit": "c", "replaced_weights": ["x"]},
            False,  # the same names may have got other values
        ),
        (
            {"fingerprint": "a", "commit": "c"},
            {"fingerprint": "b", "commit": "c", "replaced_weights": ["x"]},
            False,
        ),
    ],
)
def test_models(then, now, same):
    assert is_same_model(then, now) is same
