"""A peer as a contestant: a process of its own environment that is asked line by line.

Knows nothing of any peer but where it lies and what it is called; `peers/run_<name>.py` knows one.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.peer_process import PeerProcess
from benchmarks.traffic import Traffic, dense_kv_bytes
from snello.config.model import ModelConfig
from snello.models.families import read_model_config


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a peer is started. Paths are below the folder that `peers/install.sh` filled."""

    runner: str
    environment: str
    model: str
    weights: str
    """The one file that holds the weights: its size is what a step must read."""

    options: tuple[str, ...] = ()
    kv: str = "float16"
    """How keys and values are stored, for the count of bytes."""


def _openvino(bits: str, kv: str) -> Recipe:
    return Recipe(
        runner="openvino", environment="openvino", model=f"models/openvino-{bits}",
        weights=f"models/openvino-{bits}/openvino_model.bin", options=("--kv", kv),
        kv={"f16": "float16", "u8": "int8"}[kv],
    )  # fmt: skip


def _llama(bits: str) -> Recipe:
    model = f"models/{bits}.gguf"
    return Recipe(runner="llama", environment="llama", model=model, weights=model)


def _transformers(*options: str, kv: str = "float32") -> Recipe:
    return Recipe(
        runner="transformers", environment="transformers", model="models/base",
        weights="models/base/model.safetensors", options=options, kv=kv,
    )  # fmt: skip


RECIPES = {
    "openvino-int8": _openvino("int8", "f16"),
    "openvino-int8-u8": _openvino("int8", "u8"),
    "openvino-int4": _openvino("int4", "f16"),
    "openvino-int4-u8": _openvino("int4", "u8"),
    "openvino-fp16": _openvino("fp16", "f16"),
    "llama-q8_0": _llama("q8_0"),
    "llama-q4_0": _llama("q4_0"),
    "transformers": _transformers(),
    "transformers-compile": _transformers("--compile"),
}


class Peer:
    """A running peer; every question is one line of JSON, every answer another."""

    def __init__(self, label: str, home: Path, *, cores: int) -> None:
        """Start it and wait until its model is loaded.

        Raises:
            ValueError: no such label, or it is not installed.
        """
        if label not in RECIPES:
            raise ValueError(f"there is no peer {label!r}; there are {', '.join(RECIPES)}.")
        recipe = RECIPES[label]
        python, model = home / recipe.environment / "bin" / "python", home / recipe.model
        if not model.exists():
            raise ValueError(f"{label} needs {model}; run benchmarks/peers/install.sh {home}.")
        self.name, self._recipe = label, recipe
        self.config = read_model_config(home / "models" / "base")
        self._weight_bytes = (home / recipe.weights).stat().st_size
        self._size = (0, 0)
        words = ["--model", model, "--cores", cores, *recipe.options]
        self._process = PeerProcess(label, python, recipe.runner, words)
        self._settings = dict(self._process.description)
        check_shape(self._settings.pop("shape"), self.config, label)

    def open(self, num_threads: int, context_tokens: int, num_steps: int) -> dict[str, Any]:
        """Let it read random prompts, really."""
        self._size = (num_threads, context_tokens)
        answer = self._process.ask(
            do="open", threads=num_threads, context=context_tokens, steps=num_steps
        )
        assert answer["num_prompt_tokens"] == num_threads * context_tokens, answer
        return answer | {"context": "computed"}

    def step(self, count: int) -> list[float]:
        """Take steps."""
        answer = self._process.ask(do="step", count=count)
        assert answer["num_new_tokens"] == count * self._size[0], answer
        return list(answer["seconds"])

    def traffic(self) -> Traffic:
        """Its weight file, once, and all tokens of all threads."""
        num_threads, context_tokens = self._size
        kv_bytes = dense_kv_bytes(self.config, num_threads * context_tokens, self._recipe.kv)
        return Traffic(weight_bytes=self._weight_bytes, kv_bytes=kv_bytes)

    def settings(self) -> dict[str, Any]:
        """What it says of itself."""
        return dict(self._settings)

    def close(self) -> None:
        """Let it forget its threads; the process stays."""
        self._process.ask(do="close")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """End the process."""
        self._process.__exit__(*error)


def check_shape(found: dict[str, int], config: ModelConfig, label: str) -> None:
    """Raise unless a peer runs a model of the same shape as ours."""
    wanted = {
        "layers": config.num_layers,
        "hidden": config.hidden_size,
        "vocabulary": config.vocab_size,
    }
    if found != wanted:
        raise ValueError(f"{label} runs a model of {found}; ours is {wanted}. Convert it again.")
