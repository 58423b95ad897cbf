"""A sequence as a small file: its live tokens, and what memory of what model they belong to.

Knows nothing of engines. The file is safetensors with a header in its metadata; it appears under
its name only when it is complete.
"""

import json
import os
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from snello.cache.paged import PagedMemory
from snello.cache.sparse import SparseMemory
from snello.cache.state import Codes, SequenceState, copy_out, put_in

FORMAT = 1
_TENSORS = ("survivors", "keys", "values", "positions", "evict", "token_ids")
_CODES = ("code_keys", "code_values", "code_scales", "code_positions")
"""What a file holds besides where survivors are narrow."""
_KNOWN = (sorted(_TENSORS), sorted(_TENSORS + _CODES))


class Restored(NamedTuple):
    """A sequence that is open again, and the text it holds, with tokens not yet computed."""

    sequence: int
    token_ids: list[int]


def save_sequence(
    memory: PagedMemory,
    sequence: int,
    path: Path,
    *,
    fingerprint: str,
    token_ids: list[int],
) -> None:
    """Write a sequence to a file, whole or not at all; the sequence stays as it is.

    Args:
        memory: Where the sequence lives.
        sequence: Its handle.
        path: The file; one that is there already is replaced.
        fingerprint: Names the weights, adapter included; `restore_sequence` wants the same.
        token_ids: The text, at least as long as what the memory was given.

    Raises:
        ValueError: the file cannot be written, or no file can say all there is to such a sequence;
            nothing has changed.
    """
    description = _describe(memory, fingerprint)
    state = copy_out(memory, sequence)
    tensors = {
        "survivors": state.survivors,
        "keys": state.keys,
        "values": state.values,
        "positions": state.positions,
        "evict": state.evict,
        "token_ids": torch.tensor(token_ids, dtype=torch.int64),
    }
    tensors |= dict(zip(_CODES, state.codes or (), strict=False))
    header = description | {"num_tokens": state.num_tokens}
    header["checksum"] = _checksum(header, tensors)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata={"snello_sequence": json.dumps(header)})
        temporary.replace(path)
    except (SafetensorError, OSError) as error:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"{path} cannot be written ({reason}); free some space or choose another place."
        ) from None


def restore_sequence(memory: PagedMemory, path: Path, *, fingerprint: str) -> Restored:
    """Open the sequence that a file holds; what follows is the same as if it had stayed.

    Raises:
        OutOfPages: no room; nothing has changed.
        ValueError: no such file, a damaged one, or one of another memory or model.
    """
    header, tensors = _read(path)
    for name, wanted in _describe(memory, fingerprint).items():
        came = header.get(name, "same" if name == "survivors" else None)
        if came != wanted:
            raise ValueError(
                f"{path} was written with {name} {json.dumps(came)}, and here it is "
                f"{json.dumps(wanted)}; restore it where it was saved, or compute the text again."
            )
    if header.pop("checksum", None) != _checksum(header, tensors):
        raise _damaged(path, "its checksum is another")
    token_ids = tensors.pop("token_ids").tolist()
    codes = [tensors.pop(name) for name in _CODES if name in tensors]
    state = SequenceState(
        num_tokens=header["num_tokens"], codes=Codes(*codes) if codes else None, **tensors
    )
    return Restored(put_in(memory, state), token_ids)


def _describe(memory: PagedMemory, fingerprint: str) -> dict[str, Any]:
    """Everything that must be the same where a sequence is restored.

    Raises:
        ValueError: a memory whose sequences are more than what can be written.
    """
    if not memory.can_move:
        raise ValueError(
            "a rule with a budget keeps notes beside its tokens, and these are in no file; keep "
            "the text, and compute it again, or use dense, sparse or window memory."
        )
    rule: dict[str, Any] = {"memory": "dense"}
    if isinstance(memory, SparseMemory):
        window_tokens, shift = memory.window_tokens, memory.shift
        rule = {"memory": "sparse", "window_tokens": window_tokens, "shift": shift}
    return rule | {
        "format": FORMAT,
        "dtype": str(memory.store.dtype),
        "survivors": memory.survivor_format,
        "shapes": [asdict(shape) for shape in memory.shapes],
        "fingerprint": fingerprint,
    }


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give one that was saved before.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(metadata.get("snello_sequence", "null"))
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, str(error).split("\n")[0]) from None
    if not isinstance(header, dict) or sorted(tensors) not in _KNOWN:
        raise _damaged(path, "it holds other things")
    return header, tensors


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} is not a whole saved sequence ({reason}); save it again, or compute the text "
        "again."
    )


def _checksum(header: dict[str, Any], tensors: dict[str, Tensor]) -> int:
    """Sum up all bytes: safetensors notices a short file, but no changed byte."""
    checksum = zlib.crc32(json.dumps(header, sort_keys=True).encode())
    for name in (*_TENSORS, *(name for name in _CODES if name in tensors)):
        checksum = zlib.crc32(_view_bytes(tensors[name]), checksum)
    return checksum


def _view_bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data
