"""A model in a Python program: prompts in, replies out, many at a time.

Knows nothing of how tokens are computed; `snello.AsyncLLM` is its twin that streams.
"""

import time
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from snello.config.engine import EngineConfig
from snello.config.sampling import SamplingConfig
from snello.config.sizes import parse_bytes
from snello.engine.build import serve
from snello.engine.outputs import RequestOutput, SampleOutput
from snello.engine.progress import progress_bar
from snello.engine.prompts import (
    Encoded,
    Prompt,
    encode_chat,
    encode_prompt,
    list_conversations,
    list_prompts,
    list_wishes,
)
from snello.engine.text import Message
from snello.engine.text_engine import TextEngine


class LLM:
    """A loaded model with its memory, for work that is known beforehand.

    ```python
    llm = LLM("Qwen/Qwen3-8B", "slim", kv_memory="2GiB")
    for request in llm.generate(["How many primes are below 30?"], SamplingParams(n=2)):
        print(request.outputs[0].text, request.outputs[0].factor)
    ```
    One thread at a time may use it.
    """

    def __init__(
        self,
        model: str,
        adapter: str | None = None,
        *,
        kv_memory: int | str | None = None,
        **settings: Any,
    ) -> None:
        """Load a model.

        Args:
            model: A Hugging Face folder or name, an adapter folder, or `bundled`.
            adapter: The adapter's folder, if `model` is the base that it was made for.
            kv_memory: The size of the page pool: bytes, or a text such as "2GiB"; rounded down to
                whole MiB. Without it, as `EngineConfig.kv_memory_mib`.
            **settings: Any other field of `EngineConfig`.

        Raises:
            ValueError: no such model, device, amount or setting.
        """
        self.texts = open_texts(model, adapter, kv_memory, settings)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling: SamplingConfig | Sequence[SamplingConfig] | None = None,
        *,
        progress: bool = True,
    ) -> list[RequestOutput]:
        """Continue prompts as they are; the results stand in their order.

        A prompt that can never fit in the memory has the `finish_reason` `refused`; the others
        are answered. Ctrl-C gives all memory back.

        Args:
            prompts: A text or token ids, or a list of such prompts.
            sampling: One for all or one for each; greedy by default.
            progress: Whether to show a bar on stderr.

        Raises:
            ValueError: a prompt that is none, is empty or is longer than the model's context;
                then nothing has been computed.
        """
        encoded = [encode_prompt(self.texts.codec, prompt) for prompt in list_prompts(prompts)]
        return self._answer(encoded, sampling, progress)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling: SamplingConfig | Sequence[SamplingConfig] | None = None,
        *,
        progress: bool = True,
    ) -> list[RequestOutput]:
        """Reply to conversations; otherwise as `generate`.

        Args:
            messages: A list of dicts with `role` and `content`, or a list of such lists.
            sampling: As `generate`.
            progress: As `generate`.

        Raises:
            ValueError: as `generate`, and a model without a chat template.
        """
        conversations = list_conversations(messages)
        encoded = [encode_chat(self.texts.codec, conversation) for conversation in conversations]
        return self._answer(encoded, sampling, progress)

    def _answer(
        self,
        prompts: list[Encoded],
        sampling: SamplingConfig | Sequence[SamplingConfig] | None,
        progress: bool,
    ) -> list[RequestOutput]:
        wishes = list_wishes(sampling, len(prompts))
        replies = generate_visibly(
            self.texts, [prompt.token_ids for prompt in prompts], wishes, progress=progress
        )
        return [
            RequestOutput(prompt=prompt.text, prompt_token_ids=prompt.token_ids, outputs=outputs)
            for prompt, outputs in zip(prompts, replies, strict=True)
        ]


def generate_visibly(
    texts: TextEngine,
    prompts: Sequence[Sequence[int]],
    wishes: Sequence[SamplingConfig],
    *,
    progress: bool = True,
) -> list[list[SampleOutput]]:
    """As `TextEngine.generate`, under a bar with the number of replies and the speed."""
    num_done = num_tokens = 0
    started = time.perf_counter()
    total = sum(wish.n for wish in wishes)
    with progress_bar("generating", total, is_shown=progress and total > 0) as advance:

        def count(output: SampleOutput) -> None:
            nonlocal num_done, num_tokens
            num_done += 1
            num_tokens += len(output.token_ids)
            speed = num_tokens / (time.perf_counter() - started)
            advance(num_done, f"{num_tokens:,} tokens, {speed:,.0f} tokens/s")

        return texts.generate(prompts, wishes, on_finish=count)


def open_texts(
    model: str, adapter: str | None, kv_memory: int | str | None, settings: dict[str, Any]
) -> TextEngine:
    """Load a model and its tokenizer, with what `LLM` and `AsyncLLM` are told.

    Raises:
        ValueError: as `LLM`.
    """
    known = {field.name for field in fields(EngineConfig)}
    unknown = sorted(settings.keys() - known)
    if unknown:
        raise ValueError(
            f"{unknown[0]} is no setting of an engine; known: kv_memory, "
            f"{', '.join(sorted(known))}."
        )
    if kv_memory is not None:
        settings = {**settings, "kv_memory_mib": _count_mib(kv_memory)}
    config = EngineConfig(**settings)
    served = serve(model, config) if adapter is None else serve(adapter, config, base=model)
    return TextEngine(served.engine, served.codec)


def _count_mib(amount: int | str) -> int:
    num_mib = parse_bytes(amount) // 2**20
    if num_mib < 1:
        raise ValueError(
            f"kv_memory is {amount!r}; it must be at least 1 MiB. Write '2GiB' or '512MiB'."
        )
    return num_mib
