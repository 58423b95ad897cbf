"""A model reads a text token by token while its memory is watched. Knows nothing of the rule."""

from collections.abc import Sequence

import torch

from snello.engine.build import Served
from snello.evaluation.trace import Trace, gather_trace


@torch.inference_mode()
def watch(served: Served, token_ids: Sequence[int], *, num_prompt_tokens: int) -> Trace:
    """Return what every head did with every token; the memory is left as it was.

    Args:
        served: A model on a memory that forgets, with room for the text.
        token_ids: The whole text.
        num_prompt_tokens: How many of its tokens were given; the model wrote the others.

    Raises:
        ValueError: the memory forgets nothing.
        OutOfPages: the text does not fit.
    """
    if served.plan.window_tokens is None:
        raise ValueError("dense memory forgets nothing; watch a text in sparse or window memory.")
    decoder, memory = served.engine.decoder, served.engine.memory
    device = next(decoder.parameters()).device
    sequence = memory.add()
    portraits = []
    try:
        for token_id in token_ids:
            step = memory.begin([sequence], [1])
            decoder(torch.tensor([token_id], device=device), step)
            memory.commit(step)
            portraits.append(memory.portrait(sequence))
    finally:
        memory.release(sequence)
    return gather_trace(
        served.codec.decode_each(token_ids),
        num_prompt_tokens,
        served.plan.window_tokens,
        portraits,
    )
