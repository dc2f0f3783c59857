import json

import pytest

from mae.data.listing.listing_file import LISTING, Listing
from mae.data.listing.manifest import open_source, write_listing
from mae.data.sources.base import SourceError
from mae.data.sources.coco_json import read_tables

CATEGORIES = [{"id": 3, "name": "car"}, {"id": 1, "name": "person"}]
BOX = {"bbox": [1, 2, 10, 8], "segmentation": [[1, 2, 11, 2, 11, 10]], "area": 40.0, "iscrowd": 0}


def instances(names, annotations=(), categories=CATEGORIES):
    images = [
        {"id": number, "file_name": name, "width": 40, "height": 32, "license": 1}
        for number, name in enumerate(names, 1)
    ]
    return {"images": images, "annotations": list(annotations), "categories": list(categories)}


def annotation(number, image, category=1, **changed):
    return {"id": number, "image_id": image, "category_id": category, **BOX, **changed}


def place(root, file, folder, about):
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(about))
    for image in about["images"]:
        (root / folder / image["file_name"]).write_bytes(b"image")
    return root / file


@pytest.fixture
def official(tmp_path):
    """A COCO tree: two training images, one of them without objects, and one for validation."""
    root = tmp_path / "coco"
    train = instances(["2.jpg", "1.jpg"], [annotation(7, 1), annotation(9, 1, category=3)])
    place(root, "annotations/instances_train2017.json", "train2017", train)
    val = instances(["3.jpg"], [annotation(8, 1)])
    place(root, "annotations/instances_val2017.json", "val2017", val)
    return root


def listed(root, **options):
    return [
        (entry.split, entry.path, json.loads(entry.annotation))
        for entry in open_source("coco", root, **options).entries()
    ]


def rewrite(root, change, split="train"):
    file = root / f"annotations/instances_{split}2017.json"
    about = json.loads(file.read_text())
    change(about)
    file.write_text(json.dumps(about))


def test_each_image_carries_the_annotations_that_the_json_gives_it(official):
    found = listed(official)
    assert [(split, path) for split, path, _ in found] == [
        ("train", "train2017/1.jpg"),
        ("train", "train2017/2.jpg"),
        ("val", "val2017/3.jpg"),
    ]
    assert found[0][2] == {"image_id": 2, "width": 40, "height": 32, "annotations": []}
    assert [one["id"] for one in found[1][2]["annotations"]] == [7, 9]
    assert found[1][2]["annotations"][1] == {"id": 9, "category_id": 3, **BOX}


def test_the_manifest_names_the_task_and_the_categories_by_ascending_official_id(official, tmp_path):
    manifest = write_listing(open_source("coco", official), tmp_path / "out")
    assert manifest["task"] == "detect"
    assert manifest["categories"] == [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}]
    assert manifest["classes"] == []
    assert [entry.annotation for entry in Listing(tmp_path / "out")] == [
        entry.annotation for entry in open_source("coco", official).entries()
    ]


def test_a_changed_annotation_changes_the_fingerprint_and_an_unchanged_one_no_byte(official, tmp_path):
    first = write_listing(open_source("coco", official), tmp_path / "out")
    before = (tmp_path / "out" / LISTING).stat().st_mtime_ns
    assert write_listing(open_source("coco", official), tmp_path / "out") == first
    assert (tmp_path / "out" / LISTING).stat().st_mtime_ns == before
    rewrite(official, lambda about: about["annotations"][0].update(bbox=[1, 2, 10, 9]))
    after = write_listing(open_source("coco", official), tmp_path / "out")
    assert after["fingerprint"] != first["fingerprint"]


def test_an_unchanged_set_is_not_parsed_again_and_any_change_is_seen(official, tmp_path, monkeypatch):
    def again(**options):
        return write_listing(open_source("coco", official, **options), tmp_path / "out")

    def parsed(file):
        read.append(file.name)
        return read_tables(file)

    read = []
    monkeypatch.setattr("mae.data.sources.coco.read_tables", parsed)
    first = again()
    both = list(read)
    assert again() == first
    assert read == both
    image = official / "train2017/1.jpg"
    changes = [
        lambda: image.write_bytes(b"other"),
        lambda: (official / "train2017/new.jpg").write_bytes(b"image"),
        lambda: rewrite(official, lambda about: about["annotations"][0].update(bbox=[1, 2, 10, 9])),
        lambda: rewrite(official, lambda about: about["annotations"].clear(), "val"),
    ]
    for number, change in enumerate(changes, 2):
        change()
        again()
        assert read == both * number
    again(val_fraction=0.1)
    assert read == both * 6


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("annotations/instances_{}2014.json", "{}2014"),
        ("annotations/instances_{}.json", "{}"),
        ("annotations/instances_{}2017.json", "images/{}2017"),
        ("{}.json", "{}"),
        ("{}.json", "images"),
        ("{}/_annotations.coco.json", "{}"),
        ("{}/labels.json", "{}/data"),
        ("annotations/instances_{}.json", "images/{}"),
    ],
)
def test_other_usual_layouts_are_found(tmp_path, file, folder):
    place(tmp_path, file.format("train"), folder.format("train"), instances(["a.jpg"]))
    name = "valid" if "_annotations" in file else "val"
    place(tmp_path, file.format(name), folder.format(name), instances(["b.jpg"]))
    source = open_source("coco", tmp_path)
    assert [entry.split for entry in source.entries()] == ["train", "val"]
    assert source.findings.ignored == 0  # Roboflow's jsons are among the images, and no images


def test_one_json_over_a_folder_of_images_gives_some_away_by_name(tmp_path):
    place(tmp_path, "annotations.json", "images", instances([f"{number}.jpg" for number in range(60)]))
    splits = [split for split, _, _ in listed(tmp_path, val_fraction=0.3)]
    assert 5 <= splits.count("val") <= 35
    assert {split for split, _, _ in listed(tmp_path)} == {"train"}


@pytest.mark.parametrize(
    ("file", "folder", "stated"),
    [
        ("annotations/instances_default.json", "images/default", "a.jpg"),  # CVAT
        ("annotations/instances_default.json", "images", "a.jpg"),
        ("result.json", "images", "images/a.jpg"),  # Label Studio
        ("result.json", "images", "images\\a.jpg"),  # Label Studio on Windows
        ("labels.json", "data", "a.jpg"),  # FiftyOne
    ],
)
def test_the_layouts_of_annotation_tools_are_found(tmp_path, file, folder, stated):
    place(tmp_path, file, folder, instances(["a.jpg"])).write_text(json.dumps(instances([stated])))
    assert [path for _, path, _ in listed(tmp_path)] == [f"{folder}/a.jpg"]


def test_splits_are_found_under_other_names_in_any_case(tmp_path):
    place(tmp_path, "annotations/instances_Train.json", "images/Train", instances(["a.jpg"]))
    place(tmp_path, "annotations/instances_Validation.json", "images/Validation", instances(["b.jpg"]))
    assert [(split, path) for split, path, _ in listed(tmp_path)] == [
        ("train", "images/Train/a.jpg"),
        ("val", "images/Validation/b.jpg"),
    ]


def test_json_files_under_other_names_are_named(tmp_path):
    place(tmp_path, "annotations/boxes.json", "photos", instances(["a.jpg"]))
    with pytest.raises(SourceError, match=r"the json files there are annotations/boxes\.json; expected"):
        listed(tmp_path)


def test_boxes_that_are_shares_of_their_image_are_refused(official):
    def change(about):
        for number, row in enumerate(about["annotations"]):
            row["bbox"] = [0.1 * number, 0.2, 0.3, 0.4]

    rewrite(official, change)
    with pytest.raises(SourceError, match=r"train2017.json: all 2 boxes lie within 0..1: boxes are shares"):
        listed(official)
    rewrite(official, lambda about: about["annotations"][0].update(bbox=[0.5, 0.5, 10, 9]))
    assert listed(official)


def test_a_file_name_may_begin_with_its_folder(tmp_path):
    file = place(tmp_path, "train.json", "train", instances(["a.jpg"]))
    file.write_text(json.dumps(instances(["train/a.jpg"])))
    assert [path for _, path, _ in listed(tmp_path)] == ["train/a.jpg"]


def test_images_that_the_json_does_not_list_are_counted_not_taken(official):
    (official / "train2017/other.jpg").write_bytes(b"image")
    source = open_source("coco", official)
    assert len(list(source.entries())) == 3
    assert source.findings.ignored == 1


def test_image_ids_may_be_texts_and_an_annotation_s_id_may_be_missing(tmp_path):
    about = instances(["a.jpg"], [annotation(None, "x"), annotation(None, "x", iscrowd=None, area=None)])
    about["images"][0]["id"] = "x"
    place(tmp_path, "train.json", "train", about)
    [(_, _, stated)] = listed(tmp_path)
    assert stated["image_id"] == "x"
    assert [(one["id"], one["iscrowd"]) for one in stated["annotations"]] == [(1, 0), (2, 0)]


def gone(about):
    about["images"] += [
        {"id": n, "file_name": f"gone{n}.jpg", "width": 4, "height": 4} for n in range(10, 15)
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (gone, r"5 images whose file is not in train2017/: gone10.jpg, gone11.jpg, gone12.jpg, \.\.\."),
        (
            lambda about: about["annotations"][0].update(image_id=99),
            "does not list: annotation 7: image_id 99",
        ),
        (lambda about: about["annotations"][0].update(image_id=[1]), "annotation 7: image_id"),
        (lambda about: about["annotations"][0].update(category_id=2), "annotation 7: category_id 2"),
        (
            lambda about: about["annotations"][0].update(category_id="car"),
            "annotation 7: category_id is 'car'",
        ),
        (lambda about: about["annotations"][0].update(bbox=[1, 2, 3]), r"annotation 7: bbox is \[1, 2, 3\]"),
        (lambda about: about["annotations"][0].pop("bbox"), "annotation 7: bbox is None"),
        (lambda about: about["annotations"][0].update(iscrowd=2), "annotation 7: iscrowd is 2"),
        (lambda about: about["images"][0].pop("width"), "image 1: width is None"),
        (lambda about: about["images"][0].update(height=0), "image 1: height is 0"),
        (lambda about: about["images"][0].pop("id"), "image None: id is"),
        (lambda about: about["images"][0].update(file_name=""), "image 1: file_name"),
        (lambda about: about["images"][0].update(file_name="../../1.jpg"), "not in train2017"),
        (lambda about: about["images"][1].update(id=1), "image ids given twice: 1"),
        (lambda about: about["images"][1].update(file_name="2.jpg"), "several images name: train2017/2.jpg"),
        (lambda about: about["categories"][0].update(id=1), "category ids given twice: 1"),
        (
            lambda about: about["categories"].append({**about["categories"][0], "id": 9999}),
            "category names given twice, whose figures would be mixed",
        ),
        (lambda about: about["categories"][0].pop("name"), "categories that are not"),
        (lambda about: about.pop("annotations"), "no list 'annotations'"),
        (lambda about: about.update(images={}), "no list 'images'"),
        (lambda about: about.update(images=[]), "'images' is empty"),
        (lambda about: about.update(images=[3]), "no list 'images' of objects"),
    ],
)
def test_a_json_that_does_not_hang_together_is_an_error_that_names_what(official, change, message):
    rewrite(official, change)
    with pytest.raises(SourceError, match=message) as error:
        listed(official)
    assert "instances_train2017.json" in str(error.value)


def test_one_error_names_several_faults_of_a_file(official):
    def change(about):
        about["annotations"][0]["category_id"] = 90
        about["annotations"][1]["image_id"] = 90

    rewrite(official, change)
    with pytest.raises(
        SourceError, match=r"1 annotations of categories.*annotation 7.*1 annotations of images"
    ):
        listed(official)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, "\udcff"])
def test_a_file_that_is_no_instances_json_is_named(official, text):
    file = official / "annotations/instances_val2017.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SourceError, match=r"instances_val2017\.json"):
        listed(official)


def test_splits_with_different_tables_of_categories_are_refused(official):
    rewrite(official, lambda about: about["categories"][0].update(name="lorry"), "val")
    with pytest.raises(SourceError, match=r"instances_val2017.json: category 3 is 'lorry', for train 'car'"):
        listed(official)


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("annotations/instances_train2017.json", "train2017: has no annotations"),
        ("annotations/instances_val2017.json", "val2017: has no annotations"),
        ("train2017", "its images are missing"),
    ],
)
def test_a_half_of_a_pair_that_is_missing_is_named(official, removed, message):
    (official / removed).rename(official / "elsewhere")
    with pytest.raises(SourceError, match=message):
        listed(official)


def test_a_folder_without_any_json_is_an_error_that_names_the_expected_files(tmp_path):
    with pytest.raises(SourceError, match=r"no annotations for train; expected .*instances_train2017.json"):
        listed(tmp_path)
    with pytest.raises(SourceError, match="does not exist"):
        listed(tmp_path / "nowhere")
