import numpy as np
import pytest

from mae.data.demo import scenes as module
from mae.data.demo.scenes import CLASSES, Look, dense_look, scenes


def some(split="train", count=20, **changes):
    return list(scenes(split, count, **{"size": 24, "seed": 3, **changes}))


def test_the_same_settings_give_the_same_scenes():
    for first, second in zip(some(), some(), strict=True):
        np.testing.assert_array_equal(first.image, second.image)
        assert [digit.box for digit in first.digits] == [digit.box for digit in second.digits]


def test_asking_for_more_scenes_changes_none():
    for few, many in zip(some(count=10), some(count=30)[:10], strict=True):
        np.testing.assert_array_equal(few.image, many.image)


@pytest.mark.parametrize("change", [{"seed": 4}, {"split": "val"}, {"look": Look(turn=0)}])
def test_seed_split_and_look_change_the_pictures(change):
    assert not np.array_equal(some()[0].image, some(**change)[0].image)


def test_classes_come_in_turn_and_a_scene_shows_digits_of_its_class_only():
    shown = some()
    assert [scene.label for scene in shown] == [*range(10), *range(10)]
    assert all(digit.label == scene.label for scene in shown for digit in scene.digits)


@pytest.mark.parametrize(("rows", "size"), [(1, 16), (2, 24), (3, 41)])
def test_every_cell_holds_a_digit_unless_cells_go_missing(rows, size):
    assert {len(scene.digits) for scene in some(size=size, look=Look(rows=rows))} == {rows**2}


def test_missing_cells_leave_at_least_one_digit():
    assert {len(scene.digits) for scene in some(look=Look(missing=1.0))} == {1}
    assert len({len(scene.digits) for scene in some(look=Look(missing=0.5))}) > 1


def test_a_mixed_scene_shows_digits_of_several_classes_each_with_its_own_mask():
    shown = some(size=56, look=Look(rows=4, mixed=True))
    assert np.mean([len({digit.label for digit in scene.digits}) for scene in shown]) > 5
    assert {digit.label for scene in shown for digit in scene.digits} == set(range(10))


def test_some_scenes_are_empty_where_that_is_asked_for():
    shown = some(count=200, look=Look(empty=0.1))
    empty = [scene for scene in shown if not scene.digits]
    assert 5 < len(empty) < 40
    assert not any(scene.unsure.any() for scene in empty)


def test_dense_scenes_have_digits_as_tall_as_the_small_scenes_have():
    def height(size, look):
        boxes = [digit.box for scene in some(count=60, size=size, look=look) for digit in scene.digits]
        return np.median([bottom - top for _, top, _, bottom in boxes])

    assert abs(height(56, dense_look(56)) - height(28, Look())) <= 1


def test_masks_are_disjoint_and_boxes_are_tight_around_them():
    for scene in some(look=Look(shift=0.4)):
        assert scene.image.shape == (24, 24, 3)
        assert scene.image.dtype == np.uint8
        assert np.sum([digit.mask for digit in scene.digits], axis=0).max() == 1
        for digit in scene.digits:
            left, top, right, bottom = digit.box
            inside = digit.mask[top:bottom, left:right]
            assert inside.sum() == digit.mask.sum() > 0
            assert inside[0].any()
            assert inside[-1].any()
            assert inside[:, 0].any()
            assert inside[:, -1].any()


def test_masks_lie_on_the_bright_strokes():
    for scene in some(look=Look(light=(0.05, 0.1), ink=(0.9, 1.0))):
        seen = np.any([digit.mask for digit in scene.digits], axis=0)
        assert scene.image[seen].mean() > 150
        assert scene.image[~seen].mean() < 90


def test_train_and_val_share_no_handwriting_and_no_region_of_a_photograph():
    (first, middle), (after, last) = module._DIGITS["train"], module._DIGITS["val"]
    assert (first, middle, last) == (0, after, 1797)
    assert module._COLUMNS["train"][1] == module._COLUMNS["val"][0]
    pools = {
        split: {glyph.tobytes() for pool in module._glyphs(split) for glyph in pool}
        for split in module.SPLITS
    }
    assert len(pools["train"]) + len(pools["val"]) == 1797  # no digit is there twice, either
    assert not pools["train"] & pools["val"]


def test_crops_of_a_photograph_stay_in_the_part_of_their_split(monkeypatch):
    painted = module.Image.fromarray(np.zeros((427, 640, 3), dtype=np.uint8))
    painted.paste((255, 255, 255), (int(640 * module._COLUMNS["val"][0]) + 3, 0, 640, 427))
    monkeypatch.setattr(module, "_photos", lambda: {"china": painted, "flower": painted})
    look = Look(light=(1.0, 1.0), crop=(4.0, 4.0))
    for split, value in (("train", 0), ("val", 255)):
        for index in range(30):
            rng = np.random.default_rng(index)
            _, canvas = module._background(split, rng, 24, look)
            # Smooth resizing reaches a little over the edge of the crop.
            assert np.median(canvas) == value
            assert (canvas == value).mean() > 0.9


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"split": "test"}, "test"),
        ({"count": len(CLASSES) - 1}, "demo.train"),
        ({"size": 15}, "demo.size"),
        ({"seed": -1}, "seed"),
        ({"look": Look(rows=4)}, "demo.rows"),
        ({"look": Look(missing=1.5)}, "demo.missing"),
        ({"look": Look(empty=-0.1)}, "demo.empty"),
        ({"look": Look(light=(0.5, 0.4))}, "demo.light"),
        ({"look": Look(ink=(0.5, 1.4))}, "demo.ink"),
        ({"look": Look(height=(0.0, 1.0))}, "demo.height"),
    ],
)
def test_impossible_settings_are_named(change, named):
    with pytest.raises(ValueError, match=named):
        some(**change)
