"""A weight file that changes under a loaded model: what was loaded, or an error that names the file."""

import copy
import gc
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from support import tiny_checkpoint as tiny

import gpt2np
from gpt2np.errors import CheckpointError

WEIGHTS = "model.safetensors"


def overwritten(path):
    content = path.read_bytes()
    path.write_bytes(content[:-400] + b"\0" * 400)


def overwritten_in_one_place(path):
    with open(path, "r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"\0\0\x80\x3f")


def mapped_and_written(path):
    array = np.memmap(path, np.uint8, "r+")
    array[-4:] = 0
    array.flush()


def copied_over(path):
    other = path.with_name("other")
    other.write_bytes(tiny.safetensors(tiny.tensors(7)))
    shutil.copyfile(other, path)


def appended(path):
    with open(path, "ab") as file:
        file.write(b"more")


def cut_short(path):
    os.truncate(path, 5000)


def emptied(path):
    open(path, "wb").close()


def touched(path):
    os.utime(path, ns=(0, 0))


def replaced(path):
    new = path.with_name("new")
    new.write_bytes(tiny.safetensors(tiny.tensors(7)))
    os.replace(new, path)


def deleted(path):
    path.unlink()


def folder_deleted(path):
    shutil.rmtree(path.parent)


def linked(path):
    os.link(path, path.with_name("link"))


def made_read_only(path):
    path.chmod(0o400)


def read(path):
    path.read_bytes()


WRITTEN = [
    overwritten,
    overwritten_in_one_place,
    mapped_and_written,
    copied_over,
    appended,
    cut_short,
    emptied,
    touched,
]
HARMLESS = [replaced, deleted, folder_deleted, linked, made_read_only, read]


@pytest.fixture
def folder(tmp_path):
    return tiny.write(tmp_path / "model")


@pytest.mark.parametrize("change", WRITTEN, ids=lambda f: f.__name__)
@pytest.mark.parametrize("layout", ["one file", "torch file", "second shard"])
def test_a_file_that_was_written_to_is_named_before_the_next_pass(tmp_path, layout, change):
    name = {"one file": WEIGHTS, "torch file": "pytorch_model.bin", "second shard": "b.safetensors"}[layout]
    folder = tmp_path / "model"
    if layout == "second shard":
        tiny.write_sharded(folder)
    else:
        tiny.write(folder, name)
    model = gpt2np.load(folder)
    model(tiny.IDS)
    change(folder / name)
    for run in (model, model.trace, model.score, lambda ids: model.generate(ids, max_new_tokens=1).finish()):
        with pytest.raises(CheckpointError, match=rf"{name}: has been written to since it was loaded"):
            run(tiny.IDS)
    assert tiny.write(folder)
    assert np.isfinite(gpt2np.load(folder)(tiny.IDS)).all()  # loading it again helps


@pytest.mark.parametrize("change", HARMLESS, ids=lambda f: f.__name__)
def test_a_file_that_is_replaced_or_gone_leaves_what_was_loaded(folder, change):
    model = gpt2np.load(folder)
    before = model(tiny.IDS)
    change(folder / WEIGHTS)
    np.testing.assert_array_equal(model(tiny.IDS), before)
    model.trace(tiny.IDS).verify()


@pytest.mark.parametrize("change", WRITTEN, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    "how", [{"copy": True}, {"dtype": "float64"}, {"dtype": "float64", "copy": True}], ids=str
)
def test_weights_in_memory_do_not_depend_on_the_file(folder, change, how):
    model = gpt2np.load(folder, **how)
    before = model(tiny.IDS)
    change(folder / WEIGHTS)
    np.testing.assert_array_equal(model(tiny.IDS), before)


def test_converted_weights_do_not_depend_on_the_file(folder):
    halves = {name: array.astype("<f2") for name, array in tiny.tensors().items()}
    (folder / WEIGHTS).write_bytes(tiny.safetensors(halves))
    model = gpt2np.load(folder)
    before = model(tiny.IDS)
    overwritten(folder / WEIGHTS)
    np.testing.assert_array_equal(model(tiny.IDS), before)


def test_a_generation_stops_where_the_file_changed(folder):
    model = gpt2np.load(folder)
    generation = iter(model.generate(tiny.IDS, max_new_tokens=8, eos=None))
    next(generation)
    overwritten(folder / WEIGHTS)
    with pytest.raises(CheckpointError, match="has been written to"):
        list(generation)


def test_a_process_says_so_and_is_not_killed(folder):
    code = """if True:
        import sys, gpt2np
        model = gpt2np.load(sys.argv[1])
        open(sys.argv[1] + "/model.safetensors", "wb").close()
        try:
            model([1, 2, 3])
        except gpt2np.Gpt2npError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{folder}/model.safetensors: has been written to since it was loaded")


def test_copies_of_a_model_are_in_memory(folder):
    model = gpt2np.load(folder)
    before = model(tiny.IDS)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    overwritten(folder / WEIGHTS)
    for other in copies:
        np.testing.assert_array_equal(other(tiny.IDS), before)
        np.testing.assert_array_equal(other.weights["wpe.weight"], tiny.tensors()["transformer.wpe.weight"])
        assert not other.weights["wte.weight"].flags.writeable
        assert other.tokenizer.encode("the") == gpt2np.load(tiny.write(folder)).tokenizer.encode("the")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no list of open files here")
def test_models_that_are_gone_leave_no_file_open(folder):
    def n_open():
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    before = n_open()
    models = [gpt2np.load(folder) for _ in range(30)]
    assert np.isfinite(models[-1](tiny.IDS)).all()
    assert n_open() > before
    del models
    assert n_open() == before
    gpt2np.load(folder, copy=True)
    assert n_open() == before
