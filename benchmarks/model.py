"""The model that every benchmark runs: a known shape, random weights, decisions that are forced.

Knows nothing of what is measured with it, or against whom.

    python -m benchmarks.model --out DIR

writes DIR/base (saved by transformers, with a tokenizer trained on the standard library's sources)
and DIR/<adapter>, one for each factor and window: real adapter folders, whose rows are scaled so
that every head marks a given share of the tokens.
"""

import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
import tyro
from jaxtyping import Float
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from snello.cache.dense import DenseMemory
from snello.config.dms import DecisionConfig
from snello.models.adapter import Card, write_adapter
from snello.models.checkpoint import load_decoder
from snello.models.families import read_model_config
from snello.models.layers import normalize

SHAPES: dict[str, dict[str, int]] = {
    "qwen3-0.6b": {
        "num_hidden_layers": 28, "hidden_size": 1024, "intermediate_size": 3072,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
        "vocab_size": 32_000, "max_position_embeddings": 40_960,
    },
    "tiny": {
        "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
        "vocab_size": 1_024, "max_position_embeddings": 40_960,
    },
}  # fmt: skip
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# How Qwen's tokenizers cut text before merging, so that peers that know the name find the rule.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPREAD = 20.0
"""With uneven heads, the head that keeps most keeps this many times what the least keeps."""
OFFSET = -5.0
"""Negative, so that a reading of zero is a mark: then a scaled random row marks most tokens."""
MOST_KEPT = 0.5
"""So no head can keep more than half: at factor 4 there are no uneven heads."""
NUM_CALIBRATION_TOKENS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """Make the benchmarks' model and its adapters."""

    out: Path
    """A folder outside of the repository; what is already there is not made again."""

    shape: Literal["qwen3-0.6b", "tiny"] = "qwen3-0.6b"
    factors: tuple[int, ...] = (4, 8)
    windows: tuple[int, ...] = (64, 256)
    seed: int = 0


def name_adapter(factor: int, window_tokens: int, *, is_uneven: bool = False) -> str:
    """Return the name of an adapter's folder beside `base`."""
    return f"f{factor}-w{window_tokens}" + ("-uneven" if is_uneven else "")


def choose_shares(factor: float, num_heads: int, *, is_uneven: bool) -> list[float]:
    """Return the share of tokens behind the window that each head keeps; their mean is 1 / factor.

    Uneven ones are a geometric row from s to `SPREAD` times s.
    """
    if not is_uneven or num_heads == 1:
        return [1.0 / factor] * num_heads
    row = [SPREAD ** (head / (num_heads - 1)) for head in range(num_heads)]
    return [share * num_heads / (factor * sum(row)) for share in row]


def main(options: ModelOptions) -> None:
    """Write what is missing."""
    base = options.out.resolve() / "base"
    if not (base / "config.json").exists():
        write_base(base, SHAPES[options.shape], options.seed)
        print(f"{base}: written")
    streams: list[Tensor] = []
    for factor, window_tokens, is_uneven in product(
        options.factors, options.windows, (False, True)
    ):
        folder = base.parent / name_adapter(factor, window_tokens, is_uneven=is_uneven)
        num_heads = SHAPES[options.shape]["num_key_value_heads"]
        most_kept = max(choose_shares(factor, num_heads, is_uneven=is_uneven))
        if most_kept >= MOST_KEPT or (folder / "sparsity_config.json").exists():
            continue
        streams = streams or record_streams(base, NUM_CALIBRATION_TOKENS)
        write_forced(folder, base, streams, factor, window_tokens, is_uneven=is_uneven)
        print(f"{folder}: written")


def write_base(folder: Path, shape: dict[str, int], seed: int) -> None:
    """Write a Qwen3 checkpoint with random weights in bfloat16, and its tokenizer."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(shape["vocab_size"])
    config = transformers.Qwen3Config(
        **shape,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        eos_token_id=tokenizer.token_to_id("<|im_end|>"),
        bos_token_id=None,
        pad_token_id=tokenizer.token_to_id("<|endoftext|>"),
    )
    model = transformers.Qwen3ForCausalLM(config).to(torch.bfloat16)
    model.generation_config.eos_token_id = config.eos_token_id
    model.save_pretrained(folder)
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(folder)


def train_tokenizer(vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE on the standard library; words that it lacks are named `<|pad_n|>`."""
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(read_library(), trainer)
    missing = vocab_size - len(SPECIAL) - tokenizer.get_vocab_size()
    tokenizer.add_tokens([f"<|pad_{i}|>" for i in range(missing)])
    tokenizer.add_special_tokens(list(SPECIAL))
    assert tokenizer.get_vocab_size() == vocab_size
    return tokenizer


def read_library(most_bytes: int = 12_000_000) -> Iterator[str]:
    """Yield sources of the Python standard library, in the order of their names."""
    home = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(home.rglob("*.py")):
        if "site-packages" in path.parts or most_bytes < 0:
            continue
        text = path.read_text(encoding="utf-8", errors="ignore")
        most_bytes -= len(text)
        yield text


def write_forced(
    folder: Path,
    base: Path,
    streams: Sequence[Float[Tensor, "T C"]],
    factor: int,
    window_tokens: int,
    *,
    is_uneven: bool,
) -> None:
    """Write an adapter whose heads mark the shares that `choose_shares` leaves.

    Rows are random directions of the stream. A row is scaled so that on random tokens the wanted
    share of its readings lies above the threshold. Heads are shuffled from layer to layer.
    """
    decision = DecisionConfig(window_tokens=window_tokens, offset=OFFSET)
    generator = torch.Generator().manual_seed(1)
    num_heads = read_model_config(base).num_kv_heads
    shares = torch.tensor(choose_shares(factor, num_heads, is_uneven=is_uneven))
    kept: list[list[float]] = []
    weights: dict[str, Tensor] = {}
    for layer, stream in enumerate(streams):
        kept.append(shares[torch.randperm(num_heads, generator=generator)].tolist())
        name = f"model.layers.{layer}.decision"
        weights[f"{name}.norm.weight"] = torch.ones(stream.shape[1])
        weights[f"{name}.proj.weight"] = draw_rows(stream, kept[-1], decision, generator)
    provenance = {"kept": kept, "how": "random directions, scaled to mark a given share"}
    card = Card(base_model=str(base), decision=decision, factor=factor, provenance=provenance)
    write_adapter(folder, card, weights)


@torch.inference_mode()
def record_streams(base: Path, num_tokens: int) -> list[Float[Tensor, "T C"]]:
    """Return each layer's residual stream, normalised, over one text of random tokens."""
    decoder = load_decoder(base, dtype=torch.float32, device=torch.device("cpu"), decision=None)
    memory = DenseMemory(decoder.cache_shapes, max_sequences=1, budget_bytes=2**29)
    streams: list[Tensor] = []
    for layer in decoder.eval().model.layers:
        layer.register_forward_pre_hook(
            lambda _, args: streams.append(normalize(args[0], decoder.config.norm_eps))
        )
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(decoder.config.vocab_size, (num_tokens,), generator=generator)
    decoder(tokens, memory.begin([memory.add()], [num_tokens]))
    return streams


def draw_rows(
    stream: Float[Tensor, "T C"],
    kept: Sequence[float],
    decision: DecisionConfig,
    generator: torch.Generator,
) -> Float[Tensor, "K C"]:
    """Draw a row for each head, scaled so that it keeps its share of the stream's tokens."""
    rows = torch.randn(len(kept), stream.shape[1], generator=generator)
    rows /= rows.norm(dim=1, keepdim=True)
    for row, share in zip(rows, kept, strict=True):
        readings = stream @ row
        if float(readings.mean()) > 0:
            row.neg_()
            readings = -readings
        threshold = float(readings.quantile(share))
        assert threshold < 0, f"a head cannot keep {share} of the tokens with a negative offset"
        row *= decision.offset / decision.scale / threshold
    return rows


if __name__ == "__main__":
    main(tyro.cli(ModelOptions))
