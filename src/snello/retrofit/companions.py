"""Low-rank companions (LoRA) of the decoder's own products, through peft.

Knows nothing of training or of files; merging them into weights is the adapter's business.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from snello.config.retrofit import LoraSettings
from snello.models.decoder import Decoder

NAME = "default"


def add_companions(decoder: Decoder, settings: LoraSettings, *, seed: int) -> None:
    """Give every targeted product a companion, in place; they change nothing before training.

    Raises:
        ValueError: peft is not installed, or the decoder has no module of those names.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError:
        raise ValueError("LoRA needs the package peft; pip install 'snello[retrofit]'.") from None
    names = {name.rpartition(".")[2] for name, _ in decoder.named_modules()}
    missing = [target for target in settings.targets if target not in names]
    if missing:
        known = sorted(name for name in names if name.endswith("_proj"))
        raise ValueError(
            f"LoraSettings.targets has {missing[0]!r}, which this model has not; "
            f"known: {', '.join(known)}."
        )
    if "kv_b_proj" in settings.targets:
        raise ValueError(
            "LoraSettings.targets has 'kv_b_proj', which latent attention reads as a matrix and "
            "never calls; leave it out."
        )
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules=list(settings.targets)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, decoder, adapter_name=NAME)


@contextmanager
def without_companions(decoder: Decoder) -> Iterator[None]:
    """Switch companions off for the block; without any, nothing happens."""
    layers = _companions(decoder)
    for layer in layers:
        layer.enable_adapters(enabled=False)
    frozen = [p for layer in layers for n, p in layer.named_parameters() if "lora_" in n]
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(enabled=True)
        for parameter in frozen:
            parameter.requires_grad_(True)


def companion_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Choose the companions out of trained weights, under the names they have on disk."""
    return {
        name.replace(f".{NAME}.", "."): tensor
        for name, tensor in weights.items()
        if "lora_" in name
    }


def _companions(decoder: Decoder) -> list[Any]:
    return [module for module in decoder.modules() if hasattr(module, "enable_adapters")]
