import hashlib
import json
import os
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from mae.data.demo import imagenet_layout as demo
from mae.data.demo import tree as layout
from mae.data.demo.imagenet_layout import class_id, write_demo
from mae.data.demo.scenes import Look, scenes
from mae.data.listing.manifest import open_source

SETTINGS = {"train": 20, "val": 10, "size": 24, "seed": 0}
# Of the pixels of the scenes below. Where this changes on purpose, raise FORMAT with it: directories
# that were written before would otherwise pass for up to date.
FIRST_SCENES = "eff74edf44deb4abd224e74746ee8ad3f730474b7588c16334ee5ca50b0c1d43"


def tree(root):
    """Every file below root/imagenet: its bytes and its time."""
    files = sorted(path for path in (root / "imagenet").rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino)
        for path in files
    }


def test_the_imagenet_source_reads_what_was_written(tmp_path):
    write_demo(tmp_path, **SETTINGS)
    source = open_source("folder", str(tmp_path / "imagenet"), 0.0)
    entries = list(source.entries())
    assert Counter(entry.split for entry in entries) == {"train": 20, "val": 10}
    assert {entry.class_name for entry in entries} == {class_id(label) for label in range(10)}
    assert set(Counter((e.split, e.class_name) for e in entries).values()) == {1, 2}
    words = (tmp_path / "imagenet" / "synset_words.txt").read_text().splitlines()
    assert words[3] == "n00000003 three"


def test_the_jpegs_show_the_scenes(tmp_path):
    write_demo(tmp_path, **SETTINGS)
    for scene in scenes("val", 10, size=24, seed=0):
        path = tmp_path / "imagenet" / "val" / class_id(scene.label) / f"{demo.name_of(scene)}.JPEG"
        with Image.open(path) as image:
            read = np.asarray(image).astype(float)
        assert np.abs(read - scene.image).mean() < 4


def test_two_directories_hold_the_same_bytes_and_times(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_demo(tmp_path / name, **SETTINGS)
    one, two = ({path: found[:2] for path, found in tree(tmp_path / name).items()} for name in ("one", "two"))
    assert one == two
    assert len(one) == 31
    assert len({time for _, time in one.values()}) == 1


def test_a_second_call_touches_nothing(tmp_path, monkeypatch):
    result = write_demo(tmp_path, **SETTINGS)
    before = tree(tmp_path)
    monkeypatch.setattr(demo, "_write_imagenet", None)
    assert write_demo(tmp_path, **SETTINGS) == result
    assert tree(tmp_path) == before


@pytest.mark.parametrize("change", [{"train": 10}, {"size": 16}, {"seed": 1}, {"look": Look(rows=1)}])
def test_other_settings_leave_nothing_of_the_old_ones(tmp_path, change):
    write_demo(tmp_path / "both", **SETTINGS)
    write_demo(tmp_path / "both", **{**SETTINGS, **change})
    write_demo(tmp_path / "fresh", **{**SETTINGS, **change})
    both, fresh = (
        {path: found[:2] for path, found in tree(tmp_path / name).items()} for name in ("both", "fresh")
    )
    assert both == fresh


@pytest.mark.parametrize("harm", ["missing", "cut", "marker"])
def test_a_harmed_directory_is_written_again(tmp_path, harm):
    write_demo(tmp_path, **SETTINGS)
    before = {path: found[:2] for path, found in tree(tmp_path).items()}
    victim = next((tmp_path / "imagenet" / "val").rglob("*.JPEG"))
    if harm == "missing":
        victim.unlink()
    elif harm == "cut":
        os.truncate(victim, 100)
    else:
        (tmp_path / ".complete").write_text("{")
    write_demo(tmp_path, **SETTINGS)
    assert {path: found[:2] for path, found in tree(tmp_path).items()} == before


def test_a_kill_at_any_step_is_made_good_by_the_next_call(tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    write_demo(tmp_path / "whole", **SETTINGS)
    wanted = {path: found[:2] for path, found in tree(tmp_path / "whole").items()}
    root = tmp_path / "killed"
    write_demo(root, **{**SETTINGS, "seed": 1})
    steps = [("jpeg", demo), ("write_json", layout), ("rmtree", layout.shutil), ("replace", layout.os)]
    for name, owner in steps:
        calls = 0
        original = getattr(owner, name)

        def dies(*args, original=original, **kwargs):
            nonlocal calls
            calls += 1
            if calls == 2:
                raise Killed
            return original(*args, **kwargs)

        with monkeypatch.context() as patched:
            patched.setattr(owner, name, dies)
            with pytest.raises(Killed):
                write_demo(root, **SETTINGS)
        write_demo(root, **SETTINGS)
        assert {path: found[:2] for path, found in tree(root).items()} == wanted
        assert sorted(os.listdir(root)) == [".complete", "imagenet"]
        write_demo(root, **{**SETTINGS, "seed": 1})


def test_somebody_elses_folder_is_left_alone(tmp_path):
    (tmp_path / "imagenet").mkdir()
    (tmp_path / "imagenet" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="imagenet is not the demo's"):
        write_demo(tmp_path, **SETTINGS)
    assert (tmp_path / "imagenet" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(("key", "value"), [("train", 9), ("val", 0), ("size", 8)])
def test_impossible_settings_are_named_before_anything_is_written(tmp_path, key, value):
    with pytest.raises(ValueError, match=f"demo.{key}"):
        write_demo(tmp_path / "demo", **{**SETTINGS, key: value})
    assert not (tmp_path / "demo").exists()


def test_progress_is_logged(tmp_path, monkeypatch):
    monkeypatch.setattr("mae.progress.EVERY_S", 0.0)
    lines: list[str] = []
    write_demo(tmp_path, **SETTINGS, log=lines.append)
    assert lines[19].startswith("demo: wrote 20 of 20 train scenes, ")
    assert lines[-1].startswith("demo: wrote 10 of 10 val scenes, ")


def test_other_pictures_come_with_another_format_number():
    digest = hashlib.sha256()
    for split in ("train", "val"):
        for scene in scenes(split, 10, size=24, seed=0, look=Look()):
            digest.update(scene.image.tobytes())
    assert (layout.FORMAT, digest.hexdigest()) == (1, FIRST_SCENES)


def test_the_marker_says_what_is_there(tmp_path):
    result = write_demo(tmp_path, **SETTINGS)
    assert json.loads((tmp_path / ".complete").read_text()) == result
    assert result["files"] == 31
    assert result["counts"] == {"train": 20, "val": 10}
