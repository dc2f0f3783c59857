import json

import pytest

from mae.data.listing.manifest import open_source, write_listing
from mae.data.sources.base import SourceError

CATEGORIES = [
    {"id": 0, "name": "Zygiella atrica", "supercategory": "Arachnida"},
    {"id": 1, "name": "Anax junius", "supercategory": "Insecta"},
    {"id": 12, "name": "Bufo bufo", "supercategory": "Amphibia"},
]
FOLDERS = {"2017": "train_val_images", "2018": "train_val2018", "2019": "train_val2019"}


def write_set(root, year, train, val, images=b"image", categories=CATEGORIES):
    """A tree as the competition of that year unpacks; train, val: (file in its folder, category)."""
    for split, members in (("train", train), ("val", val)):
        about = {"images": [], "annotations": [], "categories": categories, "licenses": [], "info": {}}
        for number, (name, category) in enumerate(members, 1):
            path = f"{FOLDERS[year]}/{name}"
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(images)
            row = {"id": number, "file_name": path, "width": 8, "height": 8, "license": 0}
            about["images"].append(row)
            about["annotations"].append({"id": number, "image_id": number, "category_id": category})
        (root / f"{split}{year}.json").write_text(json.dumps(about))
    return root


def change(root, edit, split="train"):
    file = root / f"{split}2018.json"
    about = json.loads(file.read_text())
    edit(about)
    file.write_text(json.dumps(about))


def entries(root, year="2018", **options):
    return list(open_source(f"inat{year}", root, **options).entries())


@pytest.fixture
def root(tmp_path):
    train = [
        ("Insecta/1/b.jpg", 1),
        ("Insecta/1/a.jpg", 1),
        ("Amphibia/12/c.jpg", 12),
        ("Arachnida/0/d.jpg", 0),
    ]
    return write_set(tmp_path / "inat", "2018", train, [("Insecta/1/v.jpg", 1)])


@pytest.mark.parametrize("year", FOLDERS)
def test_each_year_is_listed_by_its_jsons_alone(tmp_path, year):
    write_set(tmp_path, year, [("Insecta/1/a.jpg", 1), ("Amphibia/12/b.jpg", 12)], [("Insecta/1/c.jpg", 1)])
    (tmp_path / FOLDERS[year] / "Insecta/1/of_the_test_set.jpg").write_bytes(b"x")
    folder = FOLDERS[year]
    assert [(entry.split, entry.path, entry.class_name) for entry in entries(tmp_path, year)] == [
        ("train", f"{folder}/Amphibia/12/b.jpg", "0012 Bufo bufo"),
        ("train", f"{folder}/Insecta/1/a.jpg", "0001 Anax junius"),
        ("val", f"{folder}/Insecta/1/c.jpg", "0001 Anax junius"),
    ]


def test_labels_come_in_the_order_of_the_official_numbers(root, tmp_path):
    manifest = write_listing(open_source("inat2018", root), tmp_path / "out")
    assert manifest["classes"] == ["0000 Zygiella atrica", "0001 Anax junius", "0012 Bufo bufo"]
    assert manifest["class_info"]["0012 Bufo bufo"] == {
        "id": 12, "name": "Bufo bufo", "supercategory": "Amphibia",
    }  # fmt: skip
    assert {name: split["count"] for name, split in manifest["splits"].items()} == {"train": 4, "val": 1}


def test_numbers_without_names_are_named_by_the_table_that_came_later(tmp_path):
    bare = [{**row, "name": str(row["id"])} for row in CATEGORIES]
    write_set(tmp_path, "2018", [("a/1/a.jpg", 1)], [("a/1/b.jpg", 1)], categories=bare)
    assert entries(tmp_path)[0].class_name == "0001 1"
    (tmp_path / "categories.json").write_text(json.dumps(CATEGORIES))
    assert entries(tmp_path)[0].class_name == "0001 Anax junius"


def test_the_jsons_may_lie_in_a_folder_of_annotations(root):
    before = entries(root)
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        (root / f"{split}2018.json").rename(root / f"annotations/{split}2018.json")
    assert entries(root) == before


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda a: a["images"][0].update(file_name="train_val2018/gone.jpg"),
            "whose file is not below .*gone",
        ),
        (lambda a: a["images"][0].update(file_name="../../etc/passwd"), "whose file is not below .*passwd"),
        (lambda a: a["images"][0].update(file_name="/etc/passwd"), "whose file is not below .*passwd"),
        (lambda a: a["images"][1].update(file_name=a["images"][0]["file_name"]), "1 files listed twice"),
        (lambda a: a["annotations"].pop(), "1 images without one of its categories: .*d.jpg"),
        (lambda a: a["annotations"][0].update(category_id=7), "without one of its categories: .*b.jpg"),
        (
            lambda a: a["annotations"].append({"image_id": 1, "category_id": 0}),
            "of two categories: image_id 1",
        ),
        (lambda a: a["annotations"].append({"image_id": 99, "category_id": 0}), "does not list: image_id 99"),
        (lambda a: a["annotations"].append({"image_id": None}), "without image_id and category_id"),
        (lambda a: a["images"][0].update(id=[1]), "without one of its categories"),
        (lambda a: a["categories"].append({"id": 1, "name": "x"}), "category ids given twice: 1"),
        (lambda a: a.pop("annotations"), "no list 'annotations'"),
    ],
)
def test_what_does_not_hang_together_is_said_with_the_file_and_an_example(root, tmp_path, edit, message):
    change(root, edit)
    with pytest.raises(SourceError, match=message) as error:
        write_listing(open_source("inat2018", root), tmp_path / "out")
    assert str(root / "train2018.json") in str(error.value)
    assert not list((tmp_path / "out").iterdir())


def test_another_table_of_categories_for_val_is_refused(root):
    change(root, lambda about: about["categories"][1].update(name="Anax imperator"), "val")
    with pytest.raises(SourceError, match=r"val2018.json: its categories are not train's: 0001 Anax"):
        entries(root)


def test_a_missing_json_a_missing_root_and_a_share_to_hold_out_are_named(root, tmp_path):
    (root / "val2018.json").rename(root / "elsewhere.json")
    with pytest.raises(SourceError, match=r"val2018.json: missing; expected the official"):
        entries(root)
    (root / "train2018.json").write_text("{")
    (root / "elsewhere.json").rename(root / "val2018.json")
    with pytest.raises(SourceError, match=r"train2018.json: cannot be read as JSON"):
        entries(root)
    with pytest.raises(SourceError, match=r"nowhere: does not exist; expected train2018.json"):
        entries(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="official val split"):
        open_source("inat2018", root, val_fraction=0.1)


def test_an_unchanged_set_changes_no_byte_and_a_touched_image_the_fingerprint(root, tmp_path):
    first = write_listing(open_source("inat2018", root), tmp_path / "out")
    assert write_listing(open_source("inat2018", root), tmp_path / "out") == first
    next((root / "train_val2018").rglob("a.jpg")).write_bytes(b"other image")
    changed = write_listing(open_source("inat2018", root), tmp_path / "out")
    assert changed["fingerprint"] != first["fingerprint"]


def test_the_set_is_sharded_with_its_classes_and_their_official_numbers(tmp_path, sharded, picture, encoded):
    root = write_set(
        tmp_path / "inat", "2019",
        [("Insecta/1/a.jpg", 1), ("Amphibia/12/b.jpg", 12)], [("Amphibia/12/c.jpg", 12)],
        images=encoded(picture(1)),
    )  # fmt: skip
    index = sharded(root, "inat2019")
    assert index.classes == ["0001 Anax junius", "0012 Bufo bufo"]
    assert index.about["class_info"]["0012 Bufo bufo"]["id"] == 12
    assert index.split("val").labels.tolist() == [1]
