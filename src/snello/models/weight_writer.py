"""Writing tensors as a checkpoint folder: one safetensors file, or shards with an index.

Knows nothing of decoders. Files appear under their names only when all of them are complete.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from snello.models.weight_files import INDEX, SINGLE, first_line


def write_tensors(tensors: dict[str, Tensor], folder: Path, *, shard_bytes: int) -> None:
    """Write tensors to a folder, replacing the weights that it held.

    Raises:
        ValueError: the folder cannot be written (disk full, no permission); nothing has changed.
    """
    shards = list(split_shards(tensors, shard_bytes))
    written: dict[Path, Path] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        weight_map: dict[str, str] = {}
        for number, names in enumerate(shards, start=1):
            file = SINGLE if len(shards) == 1 else name_shard(number, len(shards))
            temporary = folder / f".{file}.{os.getpid()}"
            written[temporary] = folder / file
            shard = {name: tensors[name].detach().cpu().contiguous() for name in names}
            save_file(shard, temporary, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(names, file)
        if len(shards) > 1:
            temporary = folder / f".{INDEX}.{os.getpid()}"
            written[temporary] = folder / INDEX
            size = sum(count_bytes(tensor) for tensor in tensors.values())
            index = {"metadata": {"total_size": size}, "weight_map": weight_map}
            temporary.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        for temporary, final in written.items():
            temporary.replace(final)
    except (SafetensorError, OSError) as error:
        for temporary in written:
            temporary.unlink(missing_ok=True)
        raise ValueError(
            f"{folder} cannot be written ({first_line(error)}); free some space or choose "
            "another folder."
        ) from None
    drop_stale(folder, {final.name for final in written.values()})


def split_shards(tensors: dict[str, Tensor], shard_bytes: int) -> Iterator[list[str]]:
    """Group names, in order, so that a group stays within the size where a tensor allows it."""
    names: list[str] = []
    size = 0
    for name, tensor in tensors.items():
        if names and size + count_bytes(tensor) > shard_bytes:
            yield names
            names, size = [], 0
        names.append(name)
        size += count_bytes(tensor)
    yield names


def name_shard(number: int, count: int) -> str:
    """The file name of one shard, as on the hub."""
    return f"model-{number:05d}-of-{count:05d}.safetensors"


def count_bytes(tensor: Tensor) -> int:
    """How many bytes a tensor's values take."""
    return tensor.numel() * tensor.element_size()


def drop_stale(folder: Path, current: set[str]) -> None:
    """Remove weight files of an earlier writing, which an index would otherwise shadow."""
    stale = [*folder.glob("model-*-of-*.safetensors"), folder / SINGLE, folder / INDEX]
    for path in stale:
        if path.name not in current:
            path.unlink(missing_ok=True)
