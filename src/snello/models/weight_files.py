"""The tensors of a model folder, one at a time: safetensors, in one file or in shards.

Knows nothing of decoders or families. Pickles are refused: opening one can run anything.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
WHOLE = (torch.int8, torch.int32, torch.int64)


def stream_tensors(folder: Path, *, integers: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Yield each stored tensor once, by name; only one is in memory at a time.

    `integers`: let whole numbers pass as well, as parts of quantized weights.

    Raises:
        ValueError: no weights, only pickles, a missing or damaged file, a wrong dtype, NaN or Inf.
    """
    for path, names in list_files(folder).items():
        yield from stream_file(path, names, integers=integers)


def stream_file(
    path: Path, names: list[str] | None, *, integers: bool = False
) -> Iterator[tuple[str, Tensor]]:
    """Yield the named tensors of one file (None: all that it holds)."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            held = set(file.keys())
            for name in sorted(held) if names is None else names:
                if name not in held:
                    raise ValueError(
                        f"{path} does not hold {name!r}, which {INDEX} promises; the folder is "
                        "incomplete: download it again."
                    )
                tensor = file.get_tensor(name)
                if not (integers and tensor.dtype in WHOLE):
                    check_values(path, name, tensor)
                yield name, tensor
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read ({first_line(error)}); it is truncated or damaged: "
            "download it again."
        ) from None


def check_values(path: Path, name: str, tensor: Tensor) -> None:
    """Refuse what cannot be a weight of a working model."""
    if tensor.dtype not in DTYPES:
        raise ValueError(
            f"{path}: {name!r} is {tensor.dtype}; allowed are float32, float16 and bfloat16. "
            "Use the unquantized checkpoint of this model."
        )
    if not torch.isfinite(tensor).all():
        raise ValueError(
            f"{path}: {name!r} holds NaN or Inf; weights must be finite. The training that wrote "
            "them diverged or the file is damaged: use an earlier checkpoint or download it again."
        )


def list_files(folder: Path) -> dict[Path, list[str] | None]:
    """The weight files of a folder, with the tensors to read from each (None: all).

    Raises:
        ValueError: there are none, or an index that is damaged or names missing files.
    """
    index = folder / INDEX
    if index.is_file():
        return list_shards(index)
    single = folder / SINGLE
    if single.is_file():
        return {single: None}
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise ValueError(
            f"{folder} holds its weights as pickles ({pickles[0]}), which can run any code when "
            "opened; allowed are *.safetensors. Convert them with transformers: "
            "from_pretrained, then save_pretrained."
        )
    raise ValueError(
        f"{folder} holds neither {SINGLE} nor {INDEX}; a model folder needs one of them. "
        "Check the path, or download the folder again."
    )


def list_shards(index: Path) -> dict[Path, list[str] | None]:
    """Read an index: which tensor stands in which file beside it."""
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards: dict[Path, list[str] | None] = {}
        for name, file in weight_map.items():
            names = shards.setdefault(index.parent / Path(file).name, [])
            assert names is not None
            names.append(name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{index} cannot be read ({type(error).__name__}: {first_line(error)}); it must be a "
            "JSON object with a 'weight_map'. Download it again."
        ) from None
    missing = [path.name for path in shards if not path.is_file()]
    if missing:
        raise ValueError(
            f"{index} names {missing[0]}, which is not beside it ({len(missing)} of {len(shards)} "
            "files are missing); download the folder again."
        )
    return shards


def first_line(error: Exception) -> str:
    """The first line of an error's text."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
