"""Weights in and out: a Hugging Face folder to a Decoder, and a Decoder's weights back to a folder.

Knows nothing of adapters, tokenizers or training. Loading copies one tensor at a time straight to
its place; every name must be known, every shape right, every parameter filled.
"""

from pathlib import Path

import torch
from torch import Tensor

from snello.config.dms import DecisionConfig
from snello.config.model import ModelConfig
from snello.models.compressed import read_scheme, stream_weights
from snello.models.decoder import Decoder
from snello.models.families import find_family, read_model_config
from snello.models.hf_values import read_values
from snello.models.hub import find_folder
from snello.models.names import Names, Place, is_derived, is_of_decision, ways_to_fill
from snello.models.public import is_public_decision
from snello.models.weight_writer import write_tensors
from snello.quant.rounding import Quantized, Stored

HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"


def load_decoder(
    folder: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    decision: DecisionConfig | None = None,
) -> Decoder:
    """Load a base model; a decision, if one is configured, starts at "keep nearly all".

    Raises:
        ValueError: the folder, its config or its weights are not what they should be; one line.
    """
    path = find_folder(folder)
    config = read_model_config(path)
    decoder = build_empty(config, decision, dtype=dtype, device=device)
    fill(decoder, path)
    decoder.reset_derived()
    return decoder.eval()


def build_empty(
    config: ModelConfig,
    decision: DecisionConfig | None,
    *,
    dtype: torch.dtype,
    device: str | torch.device,
) -> Decoder:
    """A decoder whose memory is allocated once, in its final dtype, and not yet filled."""
    with torch.device("meta"):
        decoder = Decoder(config, decision)
    decoder.cast(dtype)
    return decoder.to_empty(device=device)


@torch.no_grad()
def fill(decoder: Decoder, folder: Path) -> None:
    """Copy every tensor of the folder to its place in the decoder.

    Raises:
        ValueError: an unknown name, a wrong shape, or a parameter that nothing filled.
    """
    names, config = find_family(decoder.config.family).names, decoder.config
    parameters = base_parameters(decoder)
    filled: set[Place] = set()
    spare_head: Tensor | None = None
    for name, tensor, quantized in stream_weights(folder, read_scheme(read_values(folder))):
        place = names.locate(name)
        if is_derived(name) or is_public_decision(name):
            continue
        if names.is_beside(name, config.num_layers, config.num_extra_layers):
            decoder.set_aside[name] = tensor
        elif place.parameter == HEAD and config.tied:
            spare_head = tensor
        elif place.parameter not in parameters:
            raise ValueError(
                f"{folder} holds {name!r}, which a {config.family} decoder of this config.json "
                "does not have; config.json and weights belong to different models."
            )
        else:
            copy_to(place, parameters[place.parameter], name, tensor)
            keep_scales(decoder, place, quantized)
            filled.add(place)
    refuse_missing(folder, names, parameters, filled)
    refuse_untied(folder, parameters, spare_head)


def base_parameters(decoder: Decoder) -> dict[str, Tensor]:
    """What a base checkpoint holds of a decoder, by the decoder's own names."""
    return {
        name: tensor for name, tensor in decoder.state_dict().items() if not is_of_decision(name)
    }


def copy_to(place: Place, parameter: Tensor, name: str, tensor: Tensor) -> None:
    """Write one tensor from disk into its part of a parameter.

    Raises:
        ValueError: the shape differs, or the values do not fit the parameter's dtype.
    """
    if place.expert is not None and place.expert >= len(parameter):
        raise ValueError(
            f"{name!r} is of expert {place.expert}, but config.json says there are "
            f"{len(parameter)}; config.json and weights belong to different models."
        )
    part = place.view(parameter)
    if part.shape != tensor.shape:
        raise ValueError(
            f"{name!r} has shape {tuple(tensor.shape)}; config.json makes it {tuple(part.shape)}. "
            "config.json and weights belong to different models, or one of them is damaged."
        )
    part.copy_(tensor)
    if parameter.dtype == torch.float16 and not torch.isfinite(part).all():
        raise ValueError(
            f"{name!r} does not fit float16 (values beyond 65504); load it as bfloat16 or float32."
        )


def keep_scales(decoder: Decoder, place: Place, quantized: Quantized | None) -> None:
    """Remember the scales of a weight that was stored quantized, beside the decoder's floats."""
    if quantized is None:
        return
    if decoder.stored is None:
        decoder.stored = Stored(bits=quantized.bits, group=quantized.group, scales={})
    stored, parameter = decoder.stored, decoder.get_parameter(place.parameter)
    if quantized.group == stored.group:
        scales = stored.scales.setdefault(
            place.parameter,
            torch.zeros(*parameter.shape[:-1], parameter.shape[-1] // stored.group).bfloat16(),
        )
        place.view(scales).copy_(quantized.scales)


def refuse_missing(
    folder: Path, names: Names, parameters: dict[str, Tensor], filled: set[Place]
) -> None:
    """Refuse a folder that left part of the decoder unfilled."""
    missing = []
    for name, parameter in parameters.items():
        if any(way <= filled for way in ways_to_fill(name, len(parameter))):
            continue
        parts = names.spread(name, len(parameter))
        missing += [disk_name for disk_name, place in parts if place not in filled]
    if missing:
        raise ValueError(
            f"{folder} lacks {missing[0]!r} ({len(missing)} of its tensors are missing); "
            "config.json and weights belong to different models, or a file is missing."
        )


def refuse_untied(folder: Path, parameters: dict[str, Tensor], head: Tensor | None) -> None:
    """Refuse an output matrix of its own where config.json says it is the embedding."""
    if head is None:
        return
    embedding = parameters[EMBEDDING]
    if not torch.equal(head.to(embedding), embedding):
        raise ValueError(
            f"{folder}: config.json says the embeddings are tied, but {HEAD!r} differs from "
            "them; set 'tie_word_embeddings' to false in config.json."
        )


def save_weights(decoder: Decoder, folder: Path, *, shard_bytes: int = 5_000_000_000) -> None:
    """Write the base weights as an ordinary checkpoint: the names, shapes and shards of the hub.

    The decision's own parameters are not written; what was set aside on loading is.

    Raises:
        ValueError: the folder cannot be written; nothing half-written is left.
    """
    names = find_family(decoder.config.family).names
    tensors = dict(decoder.set_aside)
    for name, parameter in base_parameters(decoder).items():
        for disk_name, place in names.spread(name, len(parameter)):
            tensors[disk_name] = place.view(parameter)
    write_tensors(tensors, folder, shard_bytes=shard_bytes)
