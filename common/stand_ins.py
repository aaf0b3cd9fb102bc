"""What lies in a file's place: a git-lfs pointer, a page that a proxy or a mirror sent, another format.

Standard library only.
"""

from __future__ import annotations

from pathlib import Path

HEAD_BYTES = 512  # of a file: what it is stands at its beginning
SHOWN = 80  # characters of a text that lies in a file's place

LFS = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")
PAGES = ("<!doctype", "<html", "<head", "<body", "<?xml", "<error")
AGAIN = "what sent it was a login, a proxy or a hub's error; fetch the file again"
TORCH_SAVED = (".bin", ".pt", ".pth", ".ckpt", ".tar")
ZIP, SAFETENSORS_BRACE = b"PK\x03\x04", 8  # of torch.save; where a safetensors header begins, after its length


def stand_in(file: Path) -> str | None:
    """What a file of weights, JSON or an image is instead of itself, and what helps, as the end of a sentence about it.

    None for what may be itself, and for what can't be read.
    """
    try:
        with file.open("rb") as opened:
            head = opened.read(HEAD_BYTES)
    except OSError:
        return None
    text = head.decode("utf-8", errors="replace").removeprefix("\ufeff").strip()
    if not head:
        return "is empty: its download was cut, or the disk was full; fetch it again"
    if head.startswith(LFS):
        return "is a git-lfs pointer, not the file itself: run `git lfs install && git lfs pull` in its clone"
    if text.lower().startswith(PAGES):
        return f"is a page of HTML or XML, not the file itself: {AGAIN}"
    if file.suffix == ".json":
        return None
    if len(head) < HEAD_BYTES and text.isprintable() and "\ufffd" not in text:
        return f"is a text ({text[:SHOWN]}), not the file itself: {AGAIN}"
    return _other_format(file, head)


def _other_format(file: Path, head: bytes) -> str | None:
    """Weights under the name of another format: both libraries go by the name."""
    if file.suffix == ".safetensors" and head.startswith(ZIP):
        return "is what torch.save writes, not safetensors: rename it to end in .bin"
    is_safetensors = head[SAFETENSORS_BRACE : SAFETENSORS_BRACE + 2] == b'{"'
    if file.suffix in TORCH_SAVED and is_safetensors:
        return "is safetensors, not what torch.save writes: rename it to end in .safetensors"
    return None
