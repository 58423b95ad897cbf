"""What a retrofit leaves: the adapter folder or full folder, its card, and how a model is loaded.

Knows nothing of training. `sparsity_config.json` is the card; `sparsity.safetensors` holds the
decision, LoRA companions and borrowed rows. On loading all of them become plain weights.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from snello import bundled
from snello.config.dms import DecisionConfig
from snello.models.borrowed import write_borrowed_rows
from snello.models.checkpoint import load_decoder, save_weights
from snello.models.decoder import Decoder
from snello.models.hub import find_folder
from snello.models.names import is_of_decision
from snello.models.public import read_public_card_fields, rename_public
from snello.models.weight_files import stream_file
from snello.models.whole import write_whole

FORMAT_VERSION = 1
CARD, WEIGHTS = "sparsity_config.json", "sparsity.safetensors"
BESIDE = (
    "generation_config.json", "chat_template.jinja", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model",
)  # fmt: skip
Weights = dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraNote:
    """How companions are to be merged: each adds `alpha / rank` times B A to its product."""

    rank: int
    alpha: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """All that a reader of an adapter must know beside its weights."""

    base_model: str | None
    """Name or path of the base; `bundled` stays `bundled`. None: the base is in this folder."""

    decision: DecisionConfig
    factor: float
    """What the retrofit aimed at; the measured one is in the provenance."""

    lora: LoraNote | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    """Data, steps, seed, version, measured factor and KL: for people, not for code."""

    def as_json(self) -> str:
        """Return the text of `sparsity_config.json`."""
        return json.dumps({"format_version": FORMAT_VERSION} | asdict(self), indent=1) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A decoder ready to run, and where its tokenizer lies."""

    decoder: Decoder
    folder: Path
    """The folder with config.json and the tokenizer: the base's, for an adapter."""

    decision: DecisionConfig | None
    """None where the model forgets nothing."""

    card: Card | None


def find_base(name: str | Path) -> Path:
    """Return the folder of a base: `bundled`, a folder, or a hub name.

    Raises:
        ValueError: there is no such thing.
    """
    return bundled.model_folder() if str(name) == "bundled" else find_folder(name)


def load_model(
    path: str | Path,
    base: str | Path | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> LoadedModel:
    """Load a base folder, an adapter folder, a full folder or `bundled`, with plain weights.

    Args:
        path: what to load; a folder of the public `dms_*` layout is read as well.
        base: the base of an adapter, where its own note no longer holds.
        dtype: of the base's weights; the decision's stay float32.
        device: where the weights go.

    Raises:
        ValueError: no such folder, or something in it is damaged or does not fit.
    """
    folder = find_base(path)
    card = read_card(folder)
    if card is None:
        return _load_public(folder, dtype, torch.device(device))
    home = folder
    if card.base_model is not None:
        home = find_base(base or card.base_model)
    decoder = load_decoder(home, dtype=dtype, device=torch.device(device), decision=card.decision)
    apply_weights(decoder, read_weights(folder / WEIGHTS), card, folder / WEIGHTS)
    return LoadedModel(decoder=decoder.eval(), folder=home, decision=card.decision, card=card)


def read_card(folder: Path) -> Card | None:
    """Read the card of an adapter or full folder; None where there is none.

    Raises:
        ValueError: it is damaged, or of a version that this one does not know.
    """
    path = folder / CARD
    if not path.exists():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        version = raw.pop("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(
                f"{path} has format version {version}; this snello reads version {FORMAT_VERSION}. "
                "Use the snello that wrote it, or a newer one."
            )
        lora = raw.pop("lora")
        decision = DecisionConfig(**raw.pop("decision"))
        return Card(**raw, decision=decision, lora=None if lora is None else LoraNote(**lora))
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{path} is damaged ({reason}); write the adapter again.") from None


def read_weights(path: Path) -> Weights:
    """Read a safetensors file whole.

    Raises:
        ValueError: it is not there, damaged, or holds numbers that are not finite.
    """
    if not path.is_file():
        raise ValueError(f"there is no {path}; an adapter folder holds {CARD} and {WEIGHTS}.")
    return dict(stream_file(path, None))


@torch.no_grad()
def apply_weights(decoder: Decoder, weights: Weights, card: Card, source: Path) -> None:
    """Put an adapter's weights into a decoder that was built with its decision, in place.

    Raises:
        ValueError: a tensor too many, too few or of another shape; the decoder is then half done
            and must not be used.
    """
    own = dict(decoder.named_parameters())
    left = dict(weights)
    for name in [name for name in own if is_of_decision(name)]:
        _copy(own[name], _take(left, name, source), name, source)
    write_borrowed_rows(decoder, left, source)
    for name in [name for name in left if name.endswith(".lora_A.weight")]:
        _merge(own, left, name, card, source)
    if left:
        raise ValueError(
            f"{source} holds {next(iter(left))}, which this model has no place for; "
            "is the adapter of another base?"
        )


def _take(weights: Weights, name: str, source: Path) -> Tensor:
    if name not in weights:
        raise ValueError(f"{source} has no {name}, which its card asks for; write it again.")
    return weights.pop(name)


def _copy(target: Tensor, tensor: Tensor, name: str, source: Path) -> None:
    if target.shape != tensor.shape:
        raise ValueError(
            f"{source}: {name} has the shape {tuple(tensor.shape)}, the model needs "
            f"{tuple(target.shape)}; is the adapter of another base?"
        )
    target.copy_(tensor)


def _merge(own: dict[str, Any], left: Weights, name: str, card: Card, source: Path) -> None:
    """Add one LoRA product to its weight."""
    module = name.removesuffix(".lora_A.weight")
    target = own.get(f"{module}.weight")
    a, b = left.pop(name), _take(left, f"{module}.lora_B.weight", source)
    if target is None or card.lora is None or target.shape != (b.shape[0], a.shape[1]):
        raise ValueError(f"{source}: {name} fits no product of this model; is it of another base?")
    scaled = (card.lora.alpha / card.lora.rank) * (b.float() @ a.float())
    target.copy_(target.float() + scaled.to(target.device))


def _load_public(folder: Path, dtype: torch.dtype, device: torch.device) -> LoadedModel:
    """Load a folder without a card: a plain base, or one with public `dms_*` keys."""
    decision, factor = read_public_card_fields(folder)
    if decision is None:
        decoder = load_decoder(folder, dtype=dtype, device=device, decision=None)
        return LoadedModel(decoder=decoder.eval(), folder=folder, decision=None, card=None)
    card = Card(base_model=None, decision=decision, factor=factor)
    decoder = load_decoder(folder, dtype=dtype, device=device, decision=decision)
    apply_weights(decoder, rename_public(folder, decision), card, folder)
    return LoadedModel(decoder=decoder.eval(), folder=folder, decision=decision, card=card)


def write_adapter(folder: Path, card: Card, weights: Weights) -> None:
    """Write an adapter's two files, each whole; the card comes last.

    Raises:
        OSError: the folder cannot be written or the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tidy = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_whole(folder / WEIGHTS, save(tidy, metadata={"format": "pt"}))
    write_whole(folder / CARD, card.as_json().encode())


def write_full(folder: Path, card: Card, weights: Weights, *, decoder: Decoder, base: Path) -> None:
    """Write a whole checkpoint that `transformers` reads too, with an adapter's two files.

    Raises:
        OSError, ValueError: the folder cannot be written or the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(decoder, folder)
    copy_beside(base, folder)
    described = json.loads((base / "config.json").read_text(encoding="utf-8"))
    stored = str(next(decoder.parameters()).dtype).removeprefix("torch.")
    described |= {name: stored for name in ("dtype", "torch_dtype") if name in described}
    write_whole(folder / "config.json", (json.dumps(described, indent=2) + "\n").encode())
    write_adapter(folder, card, weights)


def copy_beside(base: Path, folder: Path) -> None:
    """Copy what stands beside weights and config.json: the tokenizer and how it is used.

    Raises:
        OSError: the folder cannot be written or the disk is full.
    """
    for path in sorted(base.iterdir()):
        if path.name in BESIDE or path.name.startswith("tokenizer"):
            write_whole(folder / path.name, path.read_bytes())
