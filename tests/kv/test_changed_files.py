"""A dataset goes on only over its own files: a link, and a file that was changed, stay as they are."""

from pathlib import Path

import pytest
from support import tiny_checkpoint

import gpt2np
from gpt2np.errors import InputError
from gpt2np.kv.datasets import texts, write_dataset


@pytest.fixture
def model(tmp_path):
    return gpt2np.load(tiny_checkpoint.write(tmp_path / "model"))


def write(model, folder, prompts=("the", "a")):
    return list(write_dataset(model, texts(prompts, model), folder))


@pytest.mark.parametrize("target", ["mine.txt", "nowhere.txt"])
def test_a_link_is_not_followed(tmp_path, model, target):
    write(model, tmp_path / "d")
    (tmp_path / "mine.txt").write_text("precious")
    (tmp_path / "d/kv_00000.json").unlink()
    (tmp_path / "d/kv_00000.json").symlink_to(tmp_path / target)
    with pytest.raises(InputError, match="is a link"):
        write(model, tmp_path / "d")
    assert (tmp_path / "mine.txt").read_text() == "precious"
    assert not (tmp_path / "nowhere.txt").exists()


def test_a_file_that_was_changed_in_place(tmp_path, model):
    write(model, tmp_path / "d")
    path = tmp_path / "d/kv_00001.json"
    content = path.read_bytes()
    at = content.rindex(b"1")
    path.write_bytes(content[:at] + b"2" + content[at + 1 :])
    with pytest.raises(InputError, match=r"kv_00001\.json: has been changed since it was written"):
        write(model, tmp_path / "d")
    path.unlink()
    assert [new for _, new in write(model, tmp_path / "d")] == [False, True]
    assert path.read_bytes() == content


def test_the_same_model_by_another_name(tmp_path, model, monkeypatch):
    write(model, tmp_path / "d")
    monkeypatch.chdir(tmp_path)
    same = gpt2np.load(Path("model"))
    assert same.name != model.name
    assert [new for _, new in write(same, tmp_path / "d")] == [False, False]


def test_prompts_that_are_no_texts(model):
    assert len(texts("the", model)) == 1
    for wrong in ([5], [b"the"], [None]):
        with pytest.raises(InputError, match="must be texts"):
            texts(wrong, model)
