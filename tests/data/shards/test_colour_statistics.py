import numpy as np
import pytest
from PIL import Image

from mae.data.decode import pixels
from mae.data.shards.colour_statistics import measure_colours
from mae.data.shards.split import ShardError


def test_each_image_counts_alike_whatever_its_size(small_index):
    split = small_index.split("train")
    images = [pixels(split.read(row)).reshape(-1, 3) / 255 for row in range(len(split))]
    mean = np.mean([image.mean(0) for image in images], axis=0)
    square = np.mean([(image**2).mean(0) for image in images], axis=0)
    found = measure_colours(split, print)
    assert found["images"] == len(split) == 41
    np.testing.assert_allclose(found["mean"], mean, atol=5.1e-5)
    np.testing.assert_allclose(found["std"], np.sqrt(square - mean**2), atol=5.1e-5)


def test_the_sample_is_bounded_and_the_same_each_time(small_index):
    first = measure_colours(small_index.split("train"), print, most=5)
    assert first == measure_colours(small_index.split("train"), print, most=5)
    assert first["images"] == 5


def test_images_of_one_colour_are_refused_with_the_remedy(tmp_path, encoded, sharded):
    (tmp_path / "set/train/a").mkdir(parents=True)
    (tmp_path / "set/train/a/grey.png").write_bytes(encoded(Image.new("RGB", (8, 8), (9, 9, 9)), "PNG"))
    with pytest.raises(ShardError, match=r"one value in all images .* set input.mean and input.std"):
        measure_colours(sharded(tmp_path / "set").split("train"), print)
