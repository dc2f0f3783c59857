"""A clone has the bytes that were committed, whatever its git does to line ends: DVC compares them."""

import shutil
import subprocess

KEPT = (".gitattributes", "params.yaml", "dvc.yaml", "dvc.lock", "reports", "mae/results.yaml")


def git(folder, *arguments):
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_a_clone_that_converts_line_ends_has_the_same_bytes(project, tmp_path):
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    for name in KEPT:
        (origin / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (project / name).is_dir() else shutil.copy
        copy(project / name, origin / name)
    (origin / "reports" / "curve.csv").write_bytes(b"step,loss\r\n1,0.5\r\n")
    (origin / "model.safetensors").write_bytes(b"\r\n\n\r text alone, and no text")
    git(origin, "init")
    git(origin, "-c", "core.autocrlf=true", "add", ".")
    git(origin, "commit", "-m", "results")
    git(tmp_path, "clone", "-c", "core.autocrlf=true", str(origin), "clone")
    files = [file.relative_to(origin) for file in origin.rglob("*") if file.is_file()]
    changed = [
        str(file)
        for file in files
        if ".git" not in file.parts and (clone / file).read_bytes() != (origin / file).read_bytes()
    ]
    assert changed == []
