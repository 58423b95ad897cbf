"""A model in an asynchronous program: many streams at the same time on one engine in one thread.

Knows nothing of HTTP, of threads or of how tokens are computed.
"""

import asyncio
import weakref
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from snello.config.sampling import SamplingConfig
from snello.engine.llm import open_texts
from snello.engine.loop import EngineLoop
from snello.engine.outputs import Piece, SampleOutput
from snello.engine.prompts import Prompt, encode_chat, encode_prompt
from snello.engine.text import Message


class AsyncLLM:
    """A loaded model with its memory, for work that comes and goes.

    ```python
    async with AsyncLLM("Qwen/Qwen3-8B", "slim", kv_memory="2GiB") as llm:
        async for piece in llm.stream("Once upon a time", SamplingParams(max_new_tokens=64)):
            print(piece.text, end="")
    ```
    Any number of coroutines, also of several event loops, may use it at the same time. A dropped
    one that was not closed ends its thread by itself.
    """

    def __init__(
        self,
        model: str,
        adapter: str | None = None,
        *,
        kv_memory: int | str | None = None,
        **settings: Any,
    ) -> None:
        """Load a model and start its thread; the arguments are those of `LLM`.

        Raises:
            ValueError: no such model, device, amount or setting.
        """
        self._loop = EngineLoop(open_texts(model, adapter, kv_memory, settings))
        weakref.finalize(self, self._loop.ask_to_close)

    async def __aenter__(self) -> "AsyncLLM":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def stream(
        self, prompt: Prompt, sampling: SamplingConfig | None = None
    ) -> AsyncGenerator[Piece, None]:
        """Yield what each step adds to the reply; the last piece of each sample has its output.

        Cancelling the task, closing the generator or dropping it after a `break` ends the request
        and gives its memory back; `contextlib.aclosing` says when.

        Args:
            prompt: A text or token ids.
            sampling: Greedy by default; with `n` above 1, pieces of all samples come mixed.

        Raises:
            ValueError: a prompt that is none, is empty or is longer than the model's context.
            EngineStopped: the engine was closed or failed meanwhile.
        """
        return self._loop.stream(
            lambda codec: encode_prompt(codec, prompt), sampling or SamplingConfig()
        )

    def stream_chat(
        self, messages: Sequence[Message], sampling: SamplingConfig | None = None
    ) -> AsyncGenerator[Piece, None]:
        """Reply to a conversation; otherwise as `stream`.

        Raises:
            ValueError: as `stream`, and a model without a chat template.
            EngineStopped: as `stream`.
        """
        return self._loop.stream(
            lambda codec: encode_chat(codec, messages), sampling or SamplingConfig()
        )

    async def generate(
        self, prompt: Prompt, sampling: SamplingConfig | None = None
    ) -> list[SampleOutput]:
        """Return all replies to a prompt when they are done, in the order of their index.

        Raises:
            ValueError: as `stream`.
            EngineStopped: as `stream`.
        """
        pieces = self.stream(prompt, sampling)
        outputs = [piece.output async for piece in pieces if piece.output is not None]
        return sorted(outputs, key=lambda output: output.index)

    async def close(self) -> None:
        """End everything that runs, give the memory back, and wait for the thread to end."""
        await asyncio.to_thread(self._loop.close)
