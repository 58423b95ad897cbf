"""From text to token ids and back: a folder's tokenizer, its chat template, its end tokens.

Knows nothing of engines, memory or models.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Message = dict[str, str]
_MARK = "snello-marks-the-reply"


class TextCodec:
    """The tokenizer of a model folder, as requests need it."""

    def __init__(self, folder: Path) -> None:
        """Read the tokenizer.

        Raises:
            ValueError: the folder has none, or it cannot be read.
        """
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ValueError(
                f"no tokenizer could be read from {folder} ({reason}); it needs tokenizer.json "
                "and tokenizer_config.json, as Hugging Face writes them."
            ) from error
        self.eos_ids = _read_eos_ids(folder) or _of_tokenizer(self._tokenizer.eos_token_id)

    @property
    def tokenizer(self) -> Any:
        """The folder's own, for libraries that want one of `transformers`."""
        return self._tokenizer

    @property
    def has_chat(self) -> bool:
        """Whether the model comes with a chat template."""
        return bool(self._tokenizer.chat_template)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text as it is, with the start token that the tokenizer adds."""
        return list(self._tokenizer(text)["input_ids"])

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a conversation, up to where the reply begins.

        Raises:
            ValueError: the model has no chat template, or it refuses the messages.
        """
        return self.encode_rendered(self.render(messages))

    def encode_next_turn(self, text: str, *, previous_ids: Sequence[int]) -> list[int]:
        """Return what follows a reply: its end, the user's next turn, the start of the next reply.

        What the template writes before the reply is not repeated, so nothing is computed again.
        An end token that `previous_ids` has already is left out.
        """
        turns = [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": _MARK},
            {"role": "user", "content": text},
        ]
        ids = self.encode_rendered(self.render(turns).rpartition(_MARK)[2])
        has_ended = previous_ids and previous_ids[-1] in self.eos_ids
        return ids[1:] if has_ended and ids and ids[0] in self.eos_ids else ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids, without special tokens."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def decode_each(self, token_ids: Sequence[int]) -> list[str]:
        """Return the text of every token by itself, special ones included."""
        return [str(self._tokenizer.decode([token_id])) for token_id in token_ids]

    def encode_rendered(self, text: str) -> list[int]:
        """Return the ids of a text in which all special tokens stand already."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def render(self, messages: Sequence[Message]) -> str:
        """Return the text of a conversation, up to where the reply begins.

        Raises:
            ValueError: the model has no chat template, or it refuses the messages.
        """
        from jinja2 import TemplateError

        if not self.has_chat:
            raise ValueError(
                "the model has no chat template; give the prompt as it is (--raw), or a model "
                "folder with chat_template.jinja."
            )
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    list(messages), tokenize=False, add_generation_prompt=True
                )
            )
        except TemplateError as error:
            raise ValueError(f"the chat template refuses these messages: {error}.") from error


class TextStream:
    """Text that grows by one token at a time; a character is shown once all its bytes are there."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._token_ids: list[int] = []
        self._num_shown_tokens = 0

    def push(self, token_id: int) -> str:
        """Take a token and return the text that is now certain and new."""
        self._token_ids.append(token_id)
        shown = self._decode(self._token_ids[: self._num_shown_tokens])
        text = self._decode(self._token_ids)
        if text.endswith("\ufffd"):
            return ""
        # Two tokens of context keep the spaces that a tokenizer puts between words.
        self._token_ids = self._token_ids[max(0, self._num_shown_tokens - 2) :]
        self._num_shown_tokens = len(self._token_ids)
        return text[len(shown) :]

    def close(self) -> str:
        """Return the rest, when no more tokens come: a character that stayed incomplete."""
        shown = self._decode(self._token_ids[: self._num_shown_tokens])
        text = self._decode(self._token_ids)
        self._num_shown_tokens = len(self._token_ids)
        return text[len(shown) :]


def _read_eos_ids(folder: Path) -> tuple[int, ...]:
    """Return the end tokens that the generation config, or else the model's own, names."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        if path.is_file():
            found = _of_tokenizer(json.loads(path.read_text("utf-8")).get("eos_token_id"))
            if found:
                return found
    return ()


def _of_tokenizer(eos: int | list[int] | None) -> tuple[int, ...]:
    if eos is None:
        return ()
    return (eos,) if isinstance(eos, int) else tuple(eos)
