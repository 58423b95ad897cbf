"""A model reads a text token by token while its memory is watched. Knows nothing of the rule."""

from collections.abc import Sequence

import torch

from snello.engine.build import Served
from snello.evaluation.trace import Trace, gather_trace

MOST_LOOKS = 256
"""How often a long text needs to be looked at for its course to be seen."""


@torch.inference_mode()
def watch(
    served: Served, token_ids: Sequence[int], *, num_prompt_tokens: int, stride_tokens: int = 1
) -> Trace:
    """Return what every head did with every token; the memory is left as it was.

    Args:
        served: A model on a memory that forgets, with room for the text.
        token_ids: The whole text.
        num_prompt_tokens: How many of its tokens were given; the model wrote the others.
        stride_tokens: How many tokens to read at a time. With more than one, it is quicker, what
            is kept is the same, and a loss is noticed at the end of its stride.

    Raises:
        ValueError: the memory forgets nothing.
        OutOfPages: the text does not fit.
    """
    if served.plan.window_tokens is None:
        raise ValueError("dense memory forgets nothing; watch a text in sparse or window memory.")
    decoder, memory = served.engine.decoder, served.engine.memory
    device = next(decoder.parameters()).device
    sequence = memory.add()
    portraits = {}
    try:
        for start in range(0, len(token_ids), stride_tokens):
            read = torch.tensor(token_ids[start : start + stride_tokens], device=device)
            step = memory.begin([sequence], [len(read)])
            decoder(read, step)
            memory.commit(step)
            portraits[start + len(read)] = memory.portrait(sequence)
    finally:
        memory.release(sequence)
    return gather_trace(
        served.codec.decode_each(token_ids),
        num_prompt_tokens,
        served.plan.window_tokens,
        portraits,
    )
