import numpy as np
import pytest

from mae.data.run_lengths import BadRunLengths, mask_crop, run_lengths

mask_api = pytest.importorskip("pycocotools.mask")


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_compressed_run_lengths_are_those_that_pycocotools_means(share):
    generator = np.random.default_rng(int(share * 100))
    for height, width in ((1, 1), (1, 300), (37, 53), (1200, 3)):
        mask = np.asfortranarray(generator.random((height, width)) < share).astype(np.uint8)
        text = mask_api.encode(np.asfortranarray(mask))["counts"].decode()
        runs = run_lengths({"size": [height, width], "counts": text}, height, width)
        np.testing.assert_array_equal(
            np.repeat(np.arange(len(runs)) % 2, runs).reshape(width, height).T, mask
        )
        assert run_lengths({"size": [height, width], "counts": runs}, height, width) == runs


@pytest.mark.parametrize("compressed", [True, False])
def test_the_part_with_the_mask_is_the_mask_without_what_surrounds_it(compressed):
    generator = np.random.default_rng(0)
    for height, width, rows, columns in (
        (30, 40, slice(3, 20), slice(7, 33)),
        (30, 40, slice(0, 30), slice(0, 40)),
        (1, 50, slice(0, 1), slice(49, 50)),
        (50, 1, slice(4, 5), slice(0, 1)),
        (20, 30, slice(0, 0), slice(0, 0)),
    ):
        mask = np.zeros((height, width), np.uint8)
        mask[rows, columns] = generator.random(mask[rows, columns].shape) < 0.5
        mask[rows, columns][:1], mask[rows, columns][-1:] = 1, 1
        mask[rows, columns][:, :1], mask[rows, columns][:, -1:] = 1, 1
        text = mask_api.encode(np.asfortranarray(mask))["counts"].decode()
        stated = {"size": [height, width], "counts": text}
        if not compressed:
            stated["counts"] = run_lengths(stated, height, width)
        part, top, left = mask_crop(stated)
        np.testing.assert_array_equal(part, mask[rows, columns])
        assert (top, left) == (rows.start, columns.start)
        assert part.dtype == np.uint8


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"size": [5, 4], "counts": [20]}, r"size \[5, 4\] in an image of \[4, 5\]"),
        ({"counts": [20]}, "size None"),
        ({"size": [4, 5], "counts": [10, 9]}, "of 19 pixels in an image of 20"),
        ({"size": [4, 5], "counts": [30, -10]}, "no list of whole numbers from 0 to 20"),
        ({"size": [4, 5], "counts": [20.0]}, "no list of whole numbers from 0 to 20"),
        ({"size": [4, 5], "counts": None}, "no list of whole numbers from 0 to 20"),
        ({"size": [4, 5], "counts": [False, 20]}, "no list of whole numbers from 0 to 20"),
        ({"size": [4, 5], "counts": [0, 10**400]}, "no list of whole numbers from 0 to 20"),
        ({"size": [4.0, 5], "counts": [20]}, r"size \[4.0, 5\] in an image of \[4, 5\]"),
        ({"size": [4, 5]}, "no list of whole numbers from 0 to 20"),
        ({"size": [4, 5], "counts": ""}, "of 0 pixels"),
        ({"size": [4, 5], "counts": "é"}, "letters that cannot be"),
        ({"size": [4, 5], "counts": "o" * 40}, "letters that cannot be"),
        ({"size": [4, 5], "counts": "d"}, "stop within a number"),
    ],
)
def test_run_lengths_that_fit_no_mask_are_refused_with_the_reason(stated, message):
    with pytest.raises(BadRunLengths, match=message):
        run_lengths(stated, 4, 5)


@pytest.mark.parametrize("counts", [[1], "1"])
def test_a_side_of_one_pixel_is_no_truth_value(counts):
    with pytest.raises(BadRunLengths, match=r"size \[True, 1\]"):
        run_lengths({"size": [True, 1], "counts": counts}, 1, 1)
