"""The form of a weights file, by its content: its ending may say another, a download may be a web page."""

import tarfile
import zipfile
from pathlib import Path

SAFETENSORS, TORCH = "safetensors", "torch"
_TORCH_LEGACY = (
    b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # the number that torch.save wrote first, before it wrote zips
)
_UNPACK = "an archive ({}): unpack it and give the file in it"
_KNOWN = (
    (
        b"version https://git-lfs",
        "the pointer of git LFS, without the weights: run `git lfs pull` where it is",
    ),
    (b"\x89PNG", "an image (PNG)"),
    (b"\xff\xd8\xff", "an image (JPEG)"),
    (b"GIF8", "an image (GIF)"),
    (b"RIFF", "an image, a sound or a film (RIFF)"),
    (b"%PDF", "a document (PDF)"),
    (b"\x93NUMPY", "an array of numpy: save the weights by torch.save or as safetensors"),
    (b"\x89HDF", "an HDF5 file, as Keras writes: convert it to torch or safetensors"),
    (b"GGUF", "a GGUF file: convert it to torch or safetensors"),
    (b"\x1f\x8b", _UNPACK.format("gzip")),
    (b"BZh", _UNPACK.format("bzip2")),
    (b"\xfd7zXZ", _UNPACK.format("xz")),
    (b"\x28\xb5\x2f\xfd", _UNPACK.format("zstandard")),
    (b"7z\xbc\xaf", _UNPACK.format("7z")),
    (b"Rar!", _UNPACK.format("rar")),
)


def form_of(path: Path) -> str:
    """Return SAFETENSORS or TORCH. Raises ValueError naming the file and what it is instead."""
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    header = int.from_bytes(head[:8], "little")  # its length, then a JSON text
    if head[8:9] == b"{" and header < 100_000_000:
        return SAFETENSORS
    if head.startswith(b"PK"):
        return _zip(path)
    if head[:1] == b"\x80" and _TORCH_LEGACY in head[:64]:
        return TORCH
    raise ValueError(f"{path}: no checkpoint, but {_other(path, head)}")


def _zip(path: Path) -> str:
    """Tell torch's zips from others, and whole ones from damaged ones: torch compares no checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            names, damaged = archive.namelist(), archive.testzip()
    except Exception as error:  # damaged bytes raise anything
        raise ValueError(f"{path}: a zip, as torch writes, but cut short or damaged ({error})") from error
    if damaged is not None:
        raise ValueError(f"{path}: damaged: the checksum of {damaged} is wrong; fetch or write it again")
    ends = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in ends:
        raise ValueError(
            f"{path}: a program of TorchScript, no checkpoint: save its state dict by torch.save"
        )
    if "data.pkl" in ends:
        return TORCH
    if any(name.endswith(".npy") for name in ends):
        raise ValueError(
            f"{path}: no checkpoint, but arrays of numpy (npz): convert them to torch or safetensors"
        )
    raise ValueError(f"{path}: no checkpoint, but {_UNPACK.format('zip')}")


def _other(path: Path, head: bytes) -> str:
    """Say what a file is that is neither of safetensors nor of torch."""
    for start, what in _KNOWN:
        if head.startswith(start):
            return what
    if not head.strip(b"\0"):
        return "zeros: the copy or download did not end; fetch it again" if head else "an empty file"
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return (
            "a pickle that torch.save did not write, and that could run code: save its tensors by torch.save"
        )
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page: the address gave an error or a login in place of the file"
    if tarfile.is_tarfile(path):
        return _UNPACK.format("tar")
    try:
        text = head.decode()[:60].splitlines()[0]
    except (UnicodeDecodeError, IndexError):
        return "a file of another form: known are safetensors and what torch.save writes"
    if not text.replace("\t", " ").isprintable():
        return "a file of another form: known are safetensors and what torch.save writes"
    return f"a text that begins with {text!r}"
