"""The traced text as HTML: one span for each token, one button for each head.

Knows nothing of the page around it. What is built here is the last step and the first head; the
page's script shows the others.
"""

from html import escape

from snello.evaluation.trace import HeadTrace, Trace

NEWLINE = "\u23ce"


def build_tokens(trace: Trace) -> str:
    """Return the text with each token's state at the end, prompt and reply apart."""
    first = trace.heads[0]
    spans = [
        _span(token, state_of(trace, first, position, len(trace.tokens)))
        for position, token in enumerate(trace.tokens)
    ]
    split = trace.num_prompt_tokens
    return (
        f'<p class="part">the problem</p><div class="tokens">{"".join(spans[:split])}</div>'
        f'<p class="part">the reply</p><div class="tokens">{"".join(spans[split:])}</div>'
    )


def state_of(trace: Trace, head: HeadTrace, position: int, num_read: int) -> str:
    """Tell what a token is to a head once `num_read` tokens have been read."""
    gone = head.gone_at[position]
    if position >= num_read:
        return "unread"
    if gone is not None and gone <= num_read:
        return "forgotten"
    return "window" if num_read - 1 - position <= trace.window_tokens else "survivor"


def describe_step(trace: Trace, head: HeadTrace, num_read: int) -> str:
    """Say in one line how much is alive in one head."""
    states = [state_of(trace, head, position, num_read) for position in range(num_read)]
    window, survivors = states.count("window"), states.count("survivor")
    alive = window + survivors
    return (
        f"Layer {head.layer}, head {head.head}, after {num_read} tokens: {alive} alive "
        f"({window} in the window, {survivors} survivors), {states.count('forgotten')} forgotten; "
        f"factor {num_read / alive:.1f}."
    )


def build_head_buttons(trace: Trace) -> str:
    """Return a row of buttons for each layer, each with the share that its head kept."""
    rows = []
    for layer in sorted({head.layer for head in trace.heads}):
        buttons = "".join(
            _button(trace, index, head)
            for index, head in enumerate(trace.heads)
            if head.layer == layer
        )
        rows.append(f'<div class="layer"><span class="name">layer {layer}</span>{buttons}</div>')
    return "".join(rows)


def _button(trace: Trace, index: int, head: HeadTrace) -> str:
    num_tokens = len(trace.tokens)
    kept = head.num_alive(num_tokens) / num_tokens
    return (
        f'<button type="button" data-index="{index}" aria-pressed="{str(index == 0).lower()}">'
        f'head {head.head}<span class="bar" style="--kept:{kept:.3f}"></span>'
        f'<span class="share">{kept:.0%} kept</span></button>'
    )


def _span(token: str, state: str) -> str:
    """A word's leading space stands before the span: it is not coloured, and lines break there."""
    word = token.lstrip(" ") or token
    space = token[: len(token) - len(word)]
    shown = escape(word.replace("\n", NEWLINE + "\n"))
    return f'{space}<span class="{state}">{shown}</span>'
