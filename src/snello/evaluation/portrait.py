"""What each head keeps of some texts, in one line: how much, from where, which tokens, over time.

Knows nothing of models: traces in, portraits out. Only what has left the window is counted, for
in it every head keeps everything.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from snello.evaluation.token_kinds import KINDS, PLURALS, Kind, find_kind
from snello.evaluation.trace import HeadTrace, Trace

SINK_TOKENS = 8
MOMENTS = 12
BARS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"

_FEW, _MOST, _ALMOST_ALL = 0.01, 0.5, 0.9
_PREFERRED = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """How a head treats one kind of token."""

    kind: Kind
    kept: float
    """Share of this kind that is kept."""

    of_survivors: float
    """Share of what is kept that is of this kind."""

    lift: float
    """Its share among what is kept over its share in the text: above 1, it is preferred."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Portrait:
    """One head, over all texts together."""

    layer: int
    head: int
    kept_fraction: float
    """Share of the tokens behind the window that it kept to the end."""

    mean_distance_tokens: float | None
    """How far behind the end survivors stand, on average; None where there are none."""

    sink_share: float
    """Share of the survivors that stand among a text's first eight tokens."""

    shares: tuple[Share, ...]
    """Kinds that occur behind the window, the most preferred first."""

    live_tokens: tuple[float, ...]
    """How many tokens are alive after each of twelve equal parts of a text, mean over texts."""

    @property
    def pattern(self) -> str:
        """Where and what it keeps, in a few words."""
        if self.kept_fraction < _FEW:
            return "recent only"
        if self.kept_fraction > _ALMOST_ALL:
            return "almost everything"
        if self.sink_share >= _MOST:
            return "recent and the first tokens"
        return f"recent and {self._name_choice()}"

    def _name_choice(self) -> str:
        """Say of which kind the survivors are, if of one."""
        best = next((s for s in self.shares if s.lift >= _PREFERRED), None)
        if best is None:
            return "a choice from everywhere"
        kind = PLURALS[best.kind]
        if best.kept >= _ALMOST_ALL:
            return f"every one of the {kind}"
        if best.of_survivors >= _MOST:
            return f"mostly {kind}"
        return f"some, {kind} above all"

    @property
    def preferences(self) -> str:
        """The kinds kept more than their share, as in `digits x4.1, names x2.0`."""
        liked = [s for s in self.shares if s.lift >= _PREFERRED and s.of_survivors >= _FEW]
        return ", ".join(f"{PLURALS[s.kind]} x{s.lift:.1f}" for s in liked) or "no kind"

    @property
    def sparkline(self) -> str:
        """Live tokens over time as a row of bars, from none to the most that were alive."""
        most = max(self.live_tokens)
        return "".join(BARS[round((len(BARS) - 1) * live / most)] for live in self.live_tokens)


def portray(traces: Sequence[Trace]) -> list[Portrait]:
    """Return one portrait for each head of each layer, in their order.

    Raises:
        ValueError: no traces, or traces of different models.
    """
    shapes = {tuple((head.layer, head.head) for head in trace.heads) for trace in traces}
    if len(shapes) != 1:
        raise ValueError(
            f"{len(traces)} traces show {len(shapes)} sets of heads; portraits are of one model, "
            "on at least one text."
        )
    kinds = [[find_kind(token) for token in trace.tokens] for trace in traces]
    return [
        _portray_head([trace.heads[place] for trace in traces], traces, kinds)
        for place in range(len(traces[0].heads))
    ]


def _portray_head(
    heads: Sequence[HeadTrace], traces: Sequence[Trace], kinds: Sequence[Sequence[Kind]]
) -> Portrait:
    """Count over all texts what stands behind the window, and what of it is alive at the end."""
    behind: Counter[Kind] = Counter()
    kept: Counter[Kind] = Counter()
    distances: list[int] = []
    num_sinks = 0
    for head, trace, of_token in zip(heads, traces, kinds, strict=True):
        for position in range(max(0, len(trace.tokens) - trace.window_tokens - 1)):
            behind[of_token[position]] += 1
            if head.gone_at[position] is None:
                kept[of_token[position]] += 1
                distances.append(len(trace.tokens) - 1 - position)
                num_sinks += position < SINK_TOKENS
    num_kept = kept.total()
    lives = [_live_over_time(head, len(t.tokens)) for head, t in zip(heads, traces, strict=True)]
    return Portrait(
        layer=heads[0].layer,
        head=heads[0].head,
        kept_fraction=num_kept / max(1, behind.total()),
        mean_distance_tokens=fmean(distances) if distances else None,
        sink_share=num_sinks / max(1, num_kept),
        shares=_share_out(behind, kept),
        live_tokens=tuple(fmean(moment) for moment in zip(*lives, strict=True)),
    )


def _share_out(behind: Counter[Kind], kept: Counter[Kind]) -> tuple[Share, ...]:
    num_behind, num_kept = behind.total(), kept.total()
    shares = [
        Share(
            kind=kind,
            kept=kept[kind] / behind[kind],
            of_survivors=kept[kind] / max(1, num_kept),
            lift=(kept[kind] * num_behind) / (behind[kind] * max(1, num_kept)),
        )
        for kind in KINDS
        if behind[kind]
    ]
    return tuple(sorted(shares, key=lambda share: -share.lift))


def _live_over_time(head: HeadTrace, num_tokens: int) -> list[int]:
    return [
        head.num_alive(max(1, num_tokens * moment // MOMENTS)) for moment in range(1, MOMENTS + 1)
    ]
