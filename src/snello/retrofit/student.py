"""Who learns: the decoder, which of its weights train, who teaches it, and what is saved of it.

Knows nothing of steps, losses or data.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from snello.config.retrofit import RetrofitConfig
from snello.models.adapter import Card, LoraNote, Weights, find_base, write_adapter, write_full
from snello.models.borrowed import find_borrowed_rows, read_borrowed_rows
from snello.models.checkpoint import load_decoder
from snello.models.decoder import Decoder
from snello.models.names import is_of_decision
from snello.retrofit.companions import add_companions, companion_weights


@dataclass(frozen=True, slots=True)
class Student:
    """A decoder that is being taught. Invariant: what `requires_grad` is what the config trains."""

    config: RetrofitConfig
    folder: Path
    decoder: Decoder
    teacher: Decoder | None
    """A frozen copy of the base; None where the decoder, told not to forget, is its own teacher:
    with an adapter on a body that stays, companions switched off."""

    @property
    def decision_parameters(self) -> list[nn.Parameter]:
        """The adapter's own parameters; empty for a borrowed neuron."""
        return [p for name, p in self._trained() if is_of_decision(name)]

    @property
    def body_parameters(self) -> list[nn.Parameter]:
        """Everything else that trains."""
        return [p for name, p in self._trained() if not is_of_decision(name)]

    def describe(self, provenance: dict[str, object], *, factor: float) -> Card:
        """Return the card of what is saved."""
        lora = self.config.lora
        whole = self.config.train == "all"
        return Card(
            base_model=None if whole else _portable(self.config.base),
            decision=self.config.decision,
            factor=factor,
            lora=LoraNote(rank=lora.rank, alpha=lora.alpha)
            if self.config.train == "lora"
            else None,
            provenance=dict(provenance),
        )

    def save(self, folder: Path, card: Card, trained: dict[str, Tensor]) -> None:
        """Write the adapter folder, or the full folder where all weights train.

        Raises:
            OSError, ValueError: the folder cannot be written or the disk is full.
        """
        small: Weights = {name: t for name, t in trained.items() if is_of_decision(name)}
        if self.config.train == "lora":
            small |= companion_weights(trained)
        if self.config.train != "all":
            write_adapter(folder, card, small | read_borrowed_rows(self.decoder))
            return
        whole = self.decoder
        if any(isinstance(p, DTensor) for p in whole.parameters()):  # sharded: no one has it whole
            whole = load_decoder(self.folder, decision=self.config.decision)
            whole.load_state_dict(trained, strict=False)
        write_full(folder, card, small, decoder=whole, base=self.folder)

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.decoder.named_parameters() if p.requires_grad]


def build_student(config: RetrofitConfig, device: torch.device) -> Student:
    """Load the base and decide what trains.

    Raises:
        ValueError: the base cannot be loaded, or has nothing of what is to be trained.
    """
    folder = find_base(config.base)
    all_train = config.train == "all"
    dtype = torch.float32 if all_train else getattr(torch, config.body_dtype)
    decoder = load_decoder(folder, dtype=dtype, device=device, decision=config.decision)
    rows_train = config.train == "decision" and config.variant == "borrowed"
    teacher = None
    if all_train or config.variant == "borrowed":
        teacher = load_decoder(folder, dtype=getattr(torch, config.body_dtype), device=device)
        teacher.requires_grad_(False)
    decoder.requires_grad_(all_train)
    if config.train == "lora":
        add_companions(decoder, config.lora, seed=config.seed)
    for name, parameter in decoder.named_parameters():
        if is_of_decision(name):
            parameter.requires_grad_(True)
    if rows_train:
        _train_rows_alone(decoder)
    decoder.checkpoint_layers = config.checkpointing
    return Student(config, folder, decoder, teacher)


def _train_rows_alone(decoder: Decoder) -> None:
    """Let nothing but the borrowed rows of the query products change."""
    for found in find_borrowed_rows(decoder):
        is_borrowed = torch.zeros_like(found.parameter)
        is_borrowed[found.rows] = 1.0
        found.parameter.requires_grad_(True)
        hook = is_borrowed.mul  # the gradient of all else becomes zero
        found.parameter.register_hook(hook)  # type: ignore[no-untyped-call]


def _portable(base: str) -> str:
    """A folder is noted by its full path; `bundled` and hub names stay as they are."""
    path = Path(base)
    return str(path.resolve()) if base != "bundled" and path.is_dir() else base
