"""What a client sends by Xet, in a folder.

`hf_xet` takes an address `local://<folder>` in the place of Xet's servers and keeps its chunks there in its own way. So the
real client does all its work (chunks, deduplication, digests), and only its last step is a file instead of a request. A
commit then names a content by SHA-256 only, and the server looks for it among the shards of the folder, as described in
https://huggingface.co/docs/xet/shard.
"""

import json
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

HEADER = 48  # bytes, as is every record of a shard
HAS_VERIFICATION, HAS_SHA256 = 1 << 31, 1 << 30
NO_MORE_FILES = b"\xff" * 32

# In a process of its own: hf_xet's threads stay for as long as the process does.
FETCH = """
import json, sys, hf_xet
group = hf_xet.XetSession().new_file_download_group(
    endpoint=sys.argv[1], token="none", token_expiry_unix_secs=2**40)
with group:
    for digest, size, target in json.load(sys.stdin):
        group.start_download_file(hf_xet.XetFileInfo(digest, size), target)
"""


class XetStorage:
    """Chunks that clients have sent, below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)

    @property
    def url(self) -> str:
        return f"local://{self.folder}"

    @property
    def n_bytes(self) -> int:
        """Bytes of all chunks; what a push adds is what it has sent."""
        files = self.folder.glob("xet/xorbs/xorbs/*")
        return sum(
            file.stat().st_size for file in files if file.suffix != ".tagset"
        )  # each has one of those beside it

    def fetch(self, targets: Mapping[str, Path]) -> None:
        """Write each content that is there, by its SHA-256, to its target."""
        found = {
            sha256: place
            for shard in self.folder.glob("xet/xorbs/shards/*.mdb")
            for sha256, *place in files_of(shard)
        }
        wanted = [(*found[sha256], str(target)) for sha256, target in targets.items() if sha256 in found]
        if not wanted:
            return
        with tempfile.TemporaryDirectory() as copy:  # the client may still hold the lock of the folder
            shutil.copytree(self.folder, copy, dirs_exist_ok=True)
            command = [sys.executable, "-P", "-c", FETCH, f"local://{copy}"]
            subprocess.run(command, input=json.dumps(wanted), text=True, check=True)


def files_of(shard: Path) -> Iterator[tuple[str, str, int]]:
    """SHA-256, Xet's digest and size of each file that a shard describes."""
    content = shard.read_bytes()
    at = HEADER
    while (digest := content[at : at + 32]) != NO_MORE_FILES:
        flags, n_segments = struct.unpack_from("<II", content, at + 32)
        at += HEADER
        size = sum(struct.unpack_from("<I", content, at + HEADER * i + 36)[0] for i in range(n_segments))
        at += HEADER * n_segments * (2 if flags & HAS_VERIFICATION else 1)
        if flags & HAS_SHA256:
            yield as_hex(content[at : at + 32]), as_hex(digest), size
            at += HEADER


def as_hex(digest: bytes) -> str:
    """Xet writes a digest as four little-endian numbers."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", digest))
