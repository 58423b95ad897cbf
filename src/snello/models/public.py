"""The public layout of sparsified checkpoints: `dms_*` keys in config.json, and its tensor names.

Knows nothing of our own adapter format. Source: the configuration of `nvidia/Qwen3-8B-DMS-8x` and
of NVIDIA/Model-Optimizer, `experimental/dms`, where the defaults below are from too.
"""

import json
import re
from pathlib import Path

from torch import Tensor

from snello.config.dms import DecisionConfig
from snello.models.weight_files import list_files, stream_file

PUBLIC_TENSOR = re.compile(
    r"(?P<layer>model\.layers\.\d+)\.self_attn\.dms_proj_alpha(?P<norm>_norm)?\.(?P<kind>\w+)"
)


def is_public_decision(name: str) -> bool:
    """Whether a tensor on disk is a decision of the public layout."""
    return PUBLIC_TENSOR.fullmatch(name) is not None


def read_public_card_fields(folder: Path) -> tuple[DecisionConfig | None, float]:
    """Return the decision that a folder's config.json tells of, and its factor.

    `dms_separate_alpha` says adapter, its absence a borrowed neuron; `dms_alpha_per` is the
    granularity; the shift is one, as in the released code. No key, or `dms_disable_eviction`: None.

    Raises:
        ValueError: a key with a value that means nothing here.
    """
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None, 1.0  # the checkpoint's own reader says what is wrong with it
    keys = {name: raw[name] for name in raw if name.startswith("dms_")} if raw else {}
    if not keys or keys.get("dms_disable_eviction"):
        return None, 1.0
    offset = keys.get("dms_initial_alpha_offset", keys.get("dms_alpha_offset", 5.0))
    try:
        decision = DecisionConfig(
            variant="adapter" if keys.get("dms_separate_alpha") else "borrowed",
            granularity=keys.get("dms_alpha_per", "head"),
            window_tokens=int(keys.get("dms_window_size", 512)),
            shift=1,
            scale=float(keys.get("dms_alpha_scale", 100.0)),
            offset=float(offset),
        )
        return decision, float(keys.get("dms_cr", 1.0))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / 'config.json'}: the dms_* keys do not fit: {error}") from None


def rename_public(folder: Path, decision: DecisionConfig) -> dict[str, Tensor]:
    """Read the decision's tensors of a public checkpoint, under our names.

    Their projection has a row for each head even where row 0 decides for the layer.

    Raises:
        ValueError: a bias, which our decision has no place for, or a damaged file.
    """
    renamed: dict[str, Tensor] = {}
    for path in list_files(folder):
        for name, tensor in stream_file(path, None):
            match = PUBLIC_TENSOR.fullmatch(name)
            if match is None:
                continue
            if match["kind"] != "weight":
                raise ValueError(f"{path}: {name} is a bias; only decisions without one are read.")
            part = "norm" if match["norm"] else "proj"
            whole = part == "norm" or decision.granularity == "head"
            renamed[f"{match['layer']}.decision.{part}.weight"] = tensor if whole else tensor[:1]
    return renamed
