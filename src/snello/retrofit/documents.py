"""From exchanges to documents: token ids, and where the reply starts.

Knows nothing of rows or batches. The tokenizer's own chat template is applied, thinking included.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snello.retrofit.records import Exchange


@dataclass(frozen=True, slots=True)
class Document:
    """Token ids of one text; positions before `reply_start` are the prompt."""

    ids: list[int]
    reply_start: int


@dataclass(frozen=True, slots=True)
class DocumentWriter:
    """Writes exchanges as token ids, the way the model's tokenizer folder says."""

    tokenizer: Any
    vocab_size: int

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens after which another document may stand; nothing is distilled there."""
        end = self.tokenizer.eos_token_id
        return () if end is None else (int(end),)

    def write(self, exchange: Exchange) -> Document:
        """Return the document of an exchange.

        Raises:
            ValueError: no tokens, or ids that the model does not have.
        """
        if exchange.prompt_ids:
            ids = [*exchange.prompt_ids, *exchange.reply_ids]
            document = Document(ids, len(exchange.prompt_ids))
        elif exchange.messages:
            document = self._write_messages(exchange.messages)
        else:
            document = Document(self._encode(exchange.text, bare=True) + list(self.eos_ids), 0)
        self._check(document.ids)
        return document

    def write_prompt(self, exchange: Exchange) -> list[int]:
        """Return the ids after which a reply of the model's own begins."""
        if exchange.prompt_ids:
            return list(exchange.prompt_ids)
        if exchange.text:
            return self._encode(exchange.text, bare=True)
        messages = list(exchange.messages)
        asked = messages[:-1] if messages[-1]["role"] == "assistant" else messages
        ids = self._encode_turns(asked, open_reply=True)
        self._check(ids)
        return ids

    def _write_messages(self, messages: Sequence[dict[str, str]]) -> Document:
        if messages[-1]["role"] != "assistant":
            return Document(self._encode_turns(messages, open_reply=False), 0)
        if not self.tokenizer.chat_template:
            prompt = self._encode_turns(messages[:-1], open_reply=True)
            reply = self.tokenizer.encode(messages[-1]["content"], add_special_tokens=False)
            return Document([*prompt, *reply, *self.eos_ids], len(prompt))
        whole = self._template(messages, open_reply=False)
        asked = self._template(messages[:-1], open_reply=True)
        same = [i for i, (a, b) in enumerate(zip(whole, asked, strict=False)) if a != b]
        shared = whole[: same[0] if same else min(len(whole), len(asked))]
        return Document(self._encode(whole, bare=False), len(self._encode(shared, bare=False)))

    def _encode_turns(self, messages: Sequence[dict[str, str]], *, open_reply: bool) -> list[int]:
        if self.tokenizer.chat_template:
            return self._encode(self._template(messages, open_reply=open_reply), bare=False)
        return self._encode("\n\n".join(m["content"] for m in messages), bare=True)

    def _template(self, messages: Sequence[dict[str, str]], *, open_reply: bool) -> str:
        text: str = self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=open_reply
        )
        return text

    def _encode(self, text: str, *, bare: bool) -> list[int]:
        """Encode; only bare text gets the tokenizer's special tokens, a template has its own."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=bare)
        return ids

    def _check(self, ids: list[int]) -> None:
        if not ids:
            raise ValueError("a text of the data makes no tokens; remove it.")
        if max(ids) >= self.vocab_size:
            raise ValueError(
                f"the data holds token id {max(ids)}, but the model knows {self.vocab_size}; "
                "the tokenizer beside the model must be its own."
            )


def open_writer(folder: Path, vocab_size: int) -> DocumentWriter:
    """Open the tokenizer of a model folder.

    Raises:
        ValueError: no tokenizer there that transformers can read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise ValueError(
            f"{folder} holds no tokenizer that can be read ({reason}); "
            "put tokenizer.json and tokenizer_config.json beside config.json."
        ) from None
    return DocumentWriter(tokenizer, vocab_size)
