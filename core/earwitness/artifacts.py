"""Files that are written whole or not at all, and tensors that are never unpickled."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors import safe_open as _safe_open
from safetensors.torch import save as _serialise
from torch import Tensor

from earwitness.errors import CheckpointError, StoreError


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary file beside ``path``, flush it to disk and move it into place.

    Raises
    ------
    StoreError
        The folder is not writable or the disk is full; ``path`` is as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise StoreError(
            f"Cannot write {path}: {error.strerror}. Is the folder writable, and the disk not full?"
        ) from error


def canonical_json(document: Any) -> str:
    """JSON with sorted keys and no spaces: equal documents give equal text. NaN is refused (store null)."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_of(document: Any) -> str:
    """SHA-256 (hex) of a document's canonical JSON."""
    return hashlib.sha256(canonical_json(document).encode()).hexdigest()


def write_json(path: Path, document: Any) -> None:
    """Write readable JSON atomically."""
    write_atomically(path, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())


def save_tensors(path: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any] | None = None) -> None:
    """Write tensors and a JSON document into one safetensors file, atomically."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_atomically(path, _serialise(plain, metadata={"earwitness": canonical_json(document or {})}))


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as the safetensors format does: eight bytes of length, then a JSON header."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a safetensors file: its tensors and the document that :func:`save_tensors` put beside them.

    Pickles are refused by their content, whatever the name says, and never executed.

    Parameters
    ----------
    path : Path

    Returns
    -------
    tensors : dict of str to Tensor
        On the CPU.
    document : dict
        Empty for a file that was written by somebody else.

    Raises
    ------
    CheckpointError
        The file is missing, damaged, or not in safetensors format.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}.")
    try:
        with _safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            document = json.loads((file.metadata() or {}).get("earwitness", "{}"))
            if not isinstance(document, dict):
                raise ValueError(f"its document is a {type(document).__name__}")
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file ({error}). If it is a pickle under another name: it was not "
            "executed, because a pickle can run code. Convert it with safetensors.torch.save_file."
        ) from error
    return tensors, document
