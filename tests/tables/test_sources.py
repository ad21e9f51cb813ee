"""Where data sets come from: digits, .npz, folders of images; torchvision where it is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pleat.errors import UseError
from pleat_server.sources import open_source


def test_the_digits_are_1797_images_of_one_channel_from_0_to_1() -> None:
    shard = open_source("digits").shard
    assert shard.x.shape == (1797, 1, 8, 8)
    assert (shard.x.min(), shard.x.max(), shard.classes) == (0.0, 1.0, 10)


def test_an_npz_names_its_clients_as_it_likes(tmp_path: Path) -> None:
    path = tmp_path / "notes.npz"
    np.savez(
        path, x=np.zeros((4, 3), np.float32), y=np.array([0, 1, 0, 1]), writer=np.array(["mia", "ole", "mia", "ada"])
    )
    clients = open_source(str(path)).clients
    assert clients is not None
    assert clients.tolist() == [1, 2, 1, 0]


def test_clients_that_do_not_match_the_samples_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.npz"
    np.savez(path, x=np.zeros((4, 3), np.float32), y=np.array([0, 1, 0, 1]), client=np.array([1, 2]))
    with pytest.raises(UseError, match="one client for each of 4 samples"):
        open_source(str(path))


def test_samples_are_reshaped_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "flat.npz"
    np.savez(path, x=np.arange(24, dtype=np.float32).reshape(2, 12), y=np.array([0, 1]))
    assert open_source(str(path)).shard.input_shape == (12,)
    assert open_source(str(path), shape=(3, 2, 2)).shard.input_shape == (3, 2, 2)
    with pytest.raises(UseError, match="do not reshape"):
        open_source(str(path), shape=(5, 5))


def picture(path: Path, mode: str, colour: int | tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (10, 7), colour).save(path)


def test_a_folder_of_grey_images_has_one_channel_and_classes_by_folder_name(tmp_path: Path) -> None:
    picture(tmp_path / "cats" / "a.png", "L", 255)
    picture(tmp_path / "dogs" / "b.png", "L", 0)
    picture(tmp_path / "dogs" / "deep" / "c.png", "L", 51)
    shard = open_source(str(tmp_path), size=4).shard
    assert shard.x.shape == (3, 1, 4, 4)
    assert shard.x[:, 0, 0, 0].tolist() == pytest.approx([1.0, 0.0, 0.2])
    assert shard.y.tolist() == [0, 1, 1]


def test_one_coloured_image_gives_all_of_them_three_channels(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "grey.png", "L", 255)
    picture(tmp_path / "b" / "red.png", "RGB", (255, 0, 0))
    shard = open_source(str(tmp_path), size=4).shard
    assert shard.x[:, :, 0, 0].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_a_folder_without_images_says_what_it_should_hold(tmp_path: Path) -> None:
    with pytest.raises(UseError, match="one folder a class"):
        open_source(str(tmp_path))


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "good.png", "L", 0)
    (tmp_path / "a" / "bad.png").write_bytes(b"not a png")
    with pytest.raises(UseError, match=r"bad\.png: not a readable image"):
        open_source(str(tmp_path))


def test_an_unknown_data_set_is_refused_with_what_there_is() -> None:
    expected = "did you mean 'CIFAR10'" if importlib.util.find_spec("torchvision") else "torchvision is not installed"
    with pytest.raises(UseError, match=expected):
        open_source("CIFR10")


@pytest.mark.skipif(not importlib.util.find_spec("torchvision"), reason="torchvision is optional and not installed")
def test_a_torchvision_data_set_is_taken_by_name(tmp_path: Path) -> None:
    with pytest.raises(UseError, match="add --download"):
        open_source("CIFAR10", root=tmp_path)
    assert open_source("FakeData", size=4, root=tmp_path).shard.x.shape == (1000, 3, 4, 4)
