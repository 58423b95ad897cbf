"""`snello chat`: turn after turn in one slim memory, with a meter of it after each.

Knows nothing of how tokens are computed; lines come from stdin, be it a terminal or a file.
"""

import sys
from collections.abc import Iterator

from snello.cli.console import say
from snello.config.chat import ChatConfig
from snello.config.engine import SamplingConfig
from snello.engine.build import Served, serve
from snello.engine.request import Completion
from snello.engine.text_engine import TextEngine

RESET, QUIT = "/reset", "/quit"


def run(config: ChatConfig) -> None:
    """Talk until /quit or the end of the input.

    Raises:
        ValueError: an unreadable model, or one without a chat template.
    """
    served = serve(config.model, config.engine, base=config.base)
    if not served.codec.has_chat:
        raise ValueError(
            f"{config.model} has no chat template, so it cannot chat; use snello generate."
        )
    conversation = Conversation(served, config.sampling, config.system)
    say(f"{served.plan.kind} memory; {RESET} forgets, {QUIT} ends")
    for line in _read_lines():
        if line == QUIT:
            break
        if line == RESET:
            conversation.reset()
            say("forgotten")
        elif line.startswith("/"):
            say(f"{line.split()[0]} is no command; known: {RESET}, {QUIT}")
        elif line:
            _take_turn(conversation, line)
    conversation.reset()


class Conversation:
    """The turns so far: only what is new is computed, the rest is in memory.

    Invariant: `sequence` is None exactly when nothing has been said.
    """

    def __init__(self, served: Served, sampling: SamplingConfig, system: str | None) -> None:
        self._texts = TextEngine(served.engine, served.codec)
        self._sampling = sampling
        self._system = system
        self._last_ids: list[int] = []
        self.sequence: int | None = None

    def ask(self, text: str) -> Iterator[str | Completion]:
        """Yield the reply's pieces as they come, then what it cost.

        Raises:
            ValueError: the turn does not fit into the model's context; nothing has changed.
        """
        ids = self._encode(text)
        self._texts.add(ids, self._sampling, is_streamed=True, sequence=self.sequence, keep=True)
        while self._texts.is_busy:
            for piece in self._texts.step():
                yield piece.text
                if piece.output is not None:
                    self.sequence = piece.output.completion.sequence
                    self._last_ids = piece.output.token_ids
                    yield piece.output.completion

    def reset(self) -> None:
        """Give the memory back and start anew."""
        if self.sequence is not None:
            self._texts.engine.forget(self.sequence)
        self.sequence = None
        self._last_ids = []

    def _encode(self, text: str) -> list[int]:
        codec = self._texts.codec
        if self.sequence is not None:
            return codec.encode_next_turn(text, previous_ids=self._last_ids)
        system = [] if self._system is None else [{"role": "system", "content": self._system}]
        return codec.encode_chat([*system, {"role": "user", "content": text}])


def _take_turn(conversation: Conversation, line: str) -> None:
    try:
        for piece in conversation.ask(line):
            if isinstance(piece, str):
                print(piece, end="", flush=True)
            else:
                say()
                say(_draw_meter(piece))
    except ValueError as error:
        say(f"{error} {RESET} forgets what was said.")


def _draw_meter(completion: Completion) -> str:
    if completion.refusal is not None:
        return completion.refusal
    return (
        f"[{completion.num_seen_tokens:,} tokens seen, {completion.peak_live_tokens:,.0f} alive, "
        f"factor {completion.factor:.2f}, {completion.peak_bytes / 2**20:.2f} MiB, "
        f"ended by {completion.finish_reason}]"
    )


def _read_lines() -> Iterator[str]:
    """Yield stripped lines until the input ends; a prompt is shown only to a person."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        yield line.strip()
