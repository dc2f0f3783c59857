"""The embedded demo in ImageNet's layout: real pixels, offline, the same on every machine."""

from pathlib import Path
from typing import Any

from mae.data.demo.scenes import CLASSES, Look, Scene
from mae.data.demo.tree import DemoSettings, Log, ScenesBySplit, jpeg, write_file, write_tree


def write_demo(
    root: Path,
    *,
    train: int,
    val: int,
    size: int,
    seed: int,
    look: Look | None = None,
    log: Log | None = None,
) -> dict[str, Any]:
    """Write `root/imagenet/{train,val}/<class id>/<name>.JPEG` and `synset_words.txt`.

    train, val: numbers of scenes; size: their side in pixels; see `scenes` for their content. For writing,
    the result and errors see `write_tree`; the marker is `root/.complete`.
    """
    settings = DemoSettings({"train": train, "val": val}, size, seed, look or Look())
    return write_tree(root, "imagenet", _write_imagenet, settings, len(CLASSES), log, marker=".complete")


def class_id(label: int) -> str:
    """Name the folder of a class in the form of a WordNet id: an n and eight digits."""
    return f"n{label:08d}"


def name_of(scene: Scene) -> str:
    """Name a file, without extension, as ILSVRC does: the class is in the name in train, not in val."""
    if scene.split == "train":
        return f"{class_id(scene.label)}_{scene.index}"
    return f"demo_{scene.split}_{scene.index + 1:08d}"


def _write_imagenet(folder: Path, scenes_by_split: ScenesBySplit) -> None:
    for split, split_scenes in scenes_by_split.items():
        for label in range(len(CLASSES)):
            (folder / split / class_id(label)).mkdir(parents=True)
        for scene in split_scenes:
            path = folder / split / class_id(scene.label) / f"{name_of(scene)}.JPEG"
            write_file(path, jpeg(scene.image))
    words = "".join(f"{class_id(label)} {word}\n" for label, word in enumerate(CLASSES))
    write_file(folder / "synset_words.txt", words.encode())
