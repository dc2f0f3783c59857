"""`mae embed` writes the served embedding of every image that can be read, and names the others."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from embedding_inputs import IMAGES, write_encoder, write_images
from pyarrow import parquet

import mae
from mae.__main__ import main
from mae.files import sha256_of
from mae.serving import embed_folder, embedding_file

BAD = {"a/empty.jpg": "zero bytes", "gone.png": "cannot be read (No such file or directory)"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    write_images(images)
    (images / "a/empty.jpg").touch()
    (images / "gone.png").symlink_to("nowhere.png")
    (images / "notes.txt").write_text("no image")
    return images


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return write_encoder(tmp_path / "encoder.safetensors")


def embed(*arguments: Any) -> int:
    return main(["embed", *map(str, arguments), "--batch-size", "2", "--workers", "0", "--device", "cpu"])


def expected(encoder: Path, folder: Path, pool: str = "avg") -> np.ndarray:
    model, transform = mae.load(encoder, pool=pool)
    with torch.inference_mode():
        return model(torch.stack([transform(folder / name) for name in sorted(IMAGES)])).numpy()


def test_a_parquet_file_has_a_row_for_each_image_and_the_rejected_ones_are_named(
    encoder: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new/embeddings.parquet"
    assert embed(encoder, folder, out) == 0
    table = parquet.read_table(out)
    assert table["name"].to_pylist() == sorted(IMAGES)
    got = np.stack(table.to_pandas()["embedding"])
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected(encoder, folder), rtol=1e-5, atol=1e-6)
    about = json.loads(table.schema.metadata[b"mae"])
    assert about["weights_digest"] == sha256_of(encoder)
    assert (about["features"], about["patch_grid"]) == ("avg", [4, 4])
    with Path(f"{out}.rejected.csv").open(newline="") as file:
        assert {row["name"]: row["reason"] for row in csv.DictReader(file)} == BAD
    said = capsys.readouterr().out
    assert "embeddings.parquet: 5 embeddings of " in said
    assert "rejected.csv: 2 images" in said
    assert "1 other files were left out" in said
    assert sorted(path.name for path in out.parent.iterdir()) == [out.name, f"{out.name}.rejected.csv"]


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_an_npz_file_opens_without_pickle(encoder: Path, folder: Path, tmp_path: Path, pool: str) -> None:
    assert embed(encoder, folder, tmp_path / "out.npz", "--pool", pool) == 0
    with np.load(tmp_path / "out.npz") as got:
        assert got["names"].tolist() == sorted(IMAGES)
        assert got["features"].dtype == np.float32
        np.testing.assert_allclose(got["features"], expected(encoder, folder, pool), rtol=1e-5, atol=1e-6)
        assert json.loads(got["about"].item())["features"] == pool


def test_patches_have_a_token_for_each_patch_in_both_forms(
    encoder: Path, folder: Path, tmp_path: Path
) -> None:
    model, transform = mae.load(encoder)
    images = torch.stack([transform(folder / name) for name in sorted(IMAGES)])
    with torch.inference_mode():
        tokens = model.vit.forward_features(images)[:, 1:].numpy()
    for name in ("out.npz", "out.parquet"):
        assert embed(encoder, folder, tmp_path / name, "--patches") == 0
    with np.load(tmp_path / "out.npz") as got:
        np.testing.assert_allclose(got["features"], tokens, rtol=1e-5, atol=1e-6)
    column = parquet.read_table(tmp_path / "out.parquet")["embedding"].to_pylist()
    np.testing.assert_allclose(np.array(column, dtype=np.float32), tokens, rtol=1e-5, atol=1e-6)


@pytest.fixture
def killed_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Make the loader fail after so many batches; return the rows at which each call starts."""
    load = embed_folder.folder_batches

    def after(batches: int) -> list[int]:
        starts: list[int] = []

        def loading(*arguments: Any, **options: Any) -> Any:
            starts.append(options["start"])
            for number, batch in enumerate(load(*arguments, **options)):
                if len(starts) == 1 and number == batches:
                    raise KeyboardInterrupt
                yield batch

        monkeypatch.setattr(embed_folder, "folder_batches", loading)
        monkeypatch.setattr(embedding_file, "ROWS", 3)
        return starts

    return after


@pytest.mark.parametrize("name", ["out.parquet", "out.npz"])
def test_a_killed_run_leaves_no_output_and_the_next_one_goes_on(
    encoder: Path, folder: Path, tmp_path: Path, killed_after: Callable[[int], list[int]], name: str
) -> None:
    starts = killed_after(3)
    assert embed(encoder, folder, tmp_path / name) == 130
    assert not (tmp_path / name).exists()
    assert embed(encoder, folder, tmp_path / name) == 0
    assert embed(encoder, folder, tmp_path / f"whole-{name}") == 0
    assert starts == [0, 4, 0]
    assert (tmp_path / name).read_bytes() == (tmp_path / f"whole-{name}").read_bytes()
    assert not (tmp_path / f".{name}.parts").exists()


def test_a_kill_costs_a_minute_at_most_and_large_embeddings_fill_smaller_parts(
    encoder: Path,
    folder: Path,
    tmp_path: Path,
    killed_after: Callable[[int], list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert embedding_file.rows_at_most((768,)) == 1024
    assert embedding_file.rows_at_most((196, 768)) * 196 * 768 * 4 <= 64 << 20
    starts = killed_after(1)
    monkeypatch.setattr(embedding_file, "ROWS", 1024)
    monkeypatch.setattr(embed_folder, "EVERY_S", 0.0)
    assert embed(encoder, folder, tmp_path / "out.npz") == 130
    assert embed(encoder, folder, tmp_path / "out.npz") == 0
    assert starts == [0, 2]


@pytest.mark.parametrize("change", ["weights", "pool", "images"])
def test_parts_of_other_weights_settings_or_images_are_not_used(
    encoder: Path,
    folder: Path,
    tmp_path: Path,
    killed_after: Callable[[int], list[int]],
    change: str,
) -> None:
    starts, out, more = killed_after(3), tmp_path / "out.npz", ["--pool", "avg"]
    assert embed(encoder, folder, out, *more) == 130
    if change == "weights":
        write_encoder(encoder, seed=1)
    elif change == "images":
        (folder / "gone.png").unlink()
    else:
        more = ["--pool", "token"]
    assert embed(encoder, folder, out, *more) == 0
    assert starts == [0, 0]
    with np.load(out) as got:
        wanted = expected(encoder, folder, "token" if change == "pool" else "avg")
        np.testing.assert_allclose(got["features"], wanted, rtol=1e-5, atol=1e-6)


def test_a_folder_or_name_that_will_not_do_is_refused_with_a_remedy(
    encoder: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: Any) -> str:
        assert embed(*arguments) == 1
        return capsys.readouterr().err

    (tmp_path / "none").mkdir()
    assert "name the output NAME.parquet or NAME.npz" in said(encoder, folder, tmp_path / "out.csv")
    assert "encoder.safetensors is a file, not a folder" in said(encoder, folder, encoder / "out.npz")
    assert "images: a folder: `mae import" in said(folder, folder, tmp_path / "out.npz")
    assert "none: holds no image" in said(encoder, tmp_path / "none", tmp_path / "out.npz")
    assert "absent: does not exist" in said(encoder, tmp_path / "absent", tmp_path / "out.npz")
    assert "no such file" in said(tmp_path / "absent.safetensors", folder, tmp_path / "out.npz")
    (tmp_path / "none/a.jpg").touch()
    assert "none of the 1 images can be embedded; a.jpg: zero bytes" in said(
        encoder, tmp_path / "none", tmp_path / "out.npz"
    )
    assert not (tmp_path / "out.npz").exists()
