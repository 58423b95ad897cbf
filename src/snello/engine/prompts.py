"""What users hand over as prompts, read and encoded. Knows nothing of engines or of sampling."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from snello.config.sampling import SamplingConfig
from snello.engine.text import Message, TextCodec

Prompt = str | Sequence[int]
"""A text, or token ids."""


class Encoded(NamedTuple):
    """A prompt as the engine takes it."""

    text: str | None
    """None if the prompt came as token ids."""

    token_ids: list[int]


def encode_prompt(codec: TextCodec, prompt: Prompt) -> Encoded:
    """Encode a text as it is; token ids stay.

    Raises:
        ValueError: neither a text nor token ids.
    """
    if isinstance(prompt, str):
        return Encoded(prompt, codec.encode(prompt))
    if _holds(prompt, int):
        return Encoded(None, [int(token_id) for token_id in prompt])
    raise ValueError(
        f"a prompt is of the type {_describe(prompt)}; give a text or a list of token ids. "
        "For messages use chat."
    )


def encode_chat(codec: TextCodec, messages: Sequence[Message]) -> Encoded:
    """Render a conversation with the model's template, and encode it.

    Raises:
        ValueError: no messages, or no template, or one that refuses them.
    """
    if not _holds(messages, Mapping) or not messages:
        raise ValueError(
            f"a conversation is of the type {_describe(messages)}; give a list of messages, each "
            "a dict with `role` and `content`."
        )
    text = codec.render(messages)
    return Encoded(text, codec.encode_rendered(text))


def list_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """Return a list of prompts from one or from several.

    Raises:
        ValueError: none of these.
    """
    if isinstance(prompts, str) or (_holds(prompts, int) and len(prompts)):
        return [prompts]  # type: ignore[list-item]  # a text, or ids alone, is one prompt
    return [*_check_list(prompts, "prompts")]


def list_conversations(
    messages: Sequence[Message] | Sequence[Sequence[Message]],
) -> list[Sequence[Message]]:
    """Return a list of conversations from one or from several.

    Raises:
        ValueError: neither.
    """
    if _holds(messages, Mapping) and len(messages):
        return [messages]  # type: ignore[list-item]  # messages alone are one conversation
    return [*_check_list(messages, "conversations")]


def list_wishes(
    sampling: SamplingConfig | Sequence[SamplingConfig] | None, num_prompts: int
) -> list[SamplingConfig]:
    """Return one wish for each prompt, from one for all, one for each, or none.

    Raises:
        ValueError: another number of them than of prompts.
    """
    if sampling is None or isinstance(sampling, SamplingConfig):
        return [sampling or SamplingConfig()] * num_prompts
    if len(sampling) != num_prompts:
        raise ValueError(
            f"{len(sampling)} sampling settings came for {num_prompts} prompts; give one for all, "
            "or one for each."
        )
    return list(sampling)


def _check_list(prompts: Any, what: str) -> Sequence[Any]:
    if isinstance(prompts, Sequence) and not isinstance(prompts, str):
        return prompts
    raise ValueError(f"{what} are of the type {_describe(prompts)}; give one, or a list of them.")


def _holds(values: Any, kind: type) -> bool:
    is_list = isinstance(values, Sequence) and not isinstance(values, str)
    return is_list and all(isinstance(value, kind) for value in values)


def _describe(value: Any) -> str:
    name = type(value).__name__
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value):
        return f"{name} of {type(value[0]).__name__}"
    return name
