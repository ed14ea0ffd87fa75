"""What `write_torch` writes: torch reads it, and so do we, to the bit; what it is made of is stored once."""

import numpy as np
import pytest
from support import needs

from gpt2np.checkpoints.torch_writing import Storages, write_torch
from gpt2np.checkpoints.torchfile import read_torch_tree, read_torch_value
from gpt2np.errors import CheckpointError, InputError

RNG = np.random.default_rng(0)
ARRAYS = [
    RNG.normal(size=(2, 3)).astype("f4"), RNG.normal(size=4), RNG.normal(size=(2, 1, 3)).astype("f2"),
    np.arange(6).reshape(2, 3), np.array([True, False]), np.array(3, "f4"), np.zeros((0, 3), "f4"),
    np.zeros((3, 0), "f4"), RNG.normal(size=(4, 6)).astype("f4").T, RNG.normal(size=(4, 6))[::2, ::3],
    RNG.normal(size=3).astype(">f4"), np.array([np.nan, np.inf, -0.0], "f4"),
    np.uint8([1, 255]), np.int8([-1]),
]  # fmt: skip
PLAIN = [
    None,
    True,
    False,
    0,
    -1,
    2**31 - 1,
    -(2**31),
    2**31,
    2**63 - 1,
    -(2**63),
    1.5,
    float("inf"),
    "",
    "日\0😀",
]


def same(one, other):
    assert one.dtype == other.dtype.newbyteorder("=")
    assert one.shape == other.shape
    assert np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    assert one.tobytes() == other.astype(one.dtype).tobytes()


@pytest.fixture
def written(tmp_path):
    """Writes a value whose arrays are alone or, as tuples, together."""

    def write(value):
        storages = Storages()

        def described(node):
            if isinstance(node, dict):
                return {key: described(child) for key, child in node.items()}
            if isinstance(node, list):
                return [described(child) for child in node]
            if isinstance(node, tuple):
                return storages.together(node)
            return storages.alone(node) if isinstance(node, np.ndarray) else node

        write_torch(tmp_path / "a.pt", described(value), storages)
        return tmp_path / "a.pt"

    return write


@pytest.mark.parametrize("torch", [False, True], ids=["ours", "torch"])
def test_every_kind_of_value(written, torch):
    path = written({"a": {"deep": [PLAIN, {}, []]}, "arrays": ARRAYS, 5: "number"})
    if torch:
        read = needs.imported("torch").load(path)
        assert [type(x) for x in read["a"]["deep"][0]] == [type(x) for x in PLAIN]
        assert needs.imported("torch").load(path, mmap=True)["a"] == read["a"]
        arrays = [tensor.numpy() for tensor in read["arrays"]]
    else:
        read = read_torch_value(path)
        arrays = read["arrays"]
    assert read["a"] == {"deep": [PLAIN, {}, []]}
    assert read[5] == "number"
    for one, other in zip(arrays, ARRAYS, strict=True):
        same(one, other)


GROWN = RNG.normal(size=(3, 9, 9)).astype("f4")
TOGETHER = {
    "corners": ([GROWN[:, :n, :n] for n in (4, 4, 5, 9)], 1.1),
    "copies of corners": ([GROWN[:, :n, :n].copy() for n in (4, 5, 9)], 1.1),
    "rows": ([RNG.normal(size=(n, 200)).astype("f4") for n in (4, 1, 1, 0, 2)], 2.1),
    "one": ([GROWN], 1.1),
    "one of them differs": ([GROWN[:, :4, :4], GROWN[:, :5, :5] + 1, GROWN], 2),
    "none equal": ([GROWN + i for i in range(3)], 3.1),
    "other dtypes": ([GROWN[:, :4, :4].astype("f2"), GROWN], 1.3),
    "other axes": ([GROWN[0], GROWN], 1.3),
    "larger than the last": ([GROWN, GROWN[:, :4, :4]], 1.3),
    "signs of zero": ([-np.zeros((1, 3), "f4"), np.zeros((2, 3), "f4")], None),
    "nan": ([np.full((1, 3), np.nan, "f4"), np.full((2, 3), np.nan, "f4")], None),
    "numbers": ([np.array(1, "f4"), np.array(2, "f4")], None),
}


@pytest.mark.parametrize("case", TOGETHER)
def test_arrays_together(written, case):
    arrays, times = TOGETHER[case]
    path = written({"list": tuple(arrays)})
    for one, other in zip(read_torch_value(path)["list"], arrays, strict=True):
        same(one, other)
    if times is not None:
        assert path.stat().st_size < times * max(a.nbytes for a in arrays) * 1.05 + 1500
    torch = needs.imported("torch")
    for one, other in zip(torch.load(path)["list"], arrays, strict=True):
        same(one.numpy(), other)


@pytest.mark.parametrize("value", [{"a": {1, 2}}, {"a": 2**63}, {"a": b"x"}, {(1, 2): 3}, {"a": 1j}])
def test_what_a_file_does_not_hold(tmp_path, value):
    with pytest.raises(InputError, match="a \\.pt file holds texts, numbers and arrays, not"):
        write_torch(tmp_path / "a.pt", value, Storages())
    with pytest.raises(InputError, match="no tensors of complex128"):
        Storages().alone(np.zeros(3, complex))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.needs("torch")
def test_values_that_are_refused(tmp_path):
    import torch

    path, deep = tmp_path / "a.pt", [torch.zeros(1)]
    for _ in range(20):
        deep = [deep]
    itself = [torch.zeros(1)]
    itself.append(itself)
    for wrong, message in (
        (deep, "deep"),
        (itself, "deep"),
        ({"a": torch.Size([1]), "b": torch.float32}, "holds 'torch.float32'"),
        ({"a": list(range(200_000))}, "too many values"),
    ):
        torch.save(wrong, path)
        with pytest.raises(CheckpointError, match=message):
            read_torch_value(path)


def test_the_tree_of_tensors_has_the_same(written):
    path = written({"a": [ARRAYS[0], {"b": ARRAYS[1]}]})
    tree = read_torch_tree(path)
    assert list(tree) == ["a[0]", "a[1].b"]
    same(tree["a[0]"][0], ARRAYS[0])
    same(tree["a[1].b"][0], ARRAYS[1])
