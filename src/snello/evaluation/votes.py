"""Several chains answer one question: what they agree on, and whether any is right.

Knows nothing of models or of costs.
"""

from collections import Counter
from collections.abc import Sequence
from math import prod


def find_majority(answers: Sequence[str | None]) -> int | None:
    """Return the first chain that gives the most frequent answer; None where none answers.

    Chains without an answer do not vote. Of answers with equally many votes, the one that the
    earliest chain gave wins: a rule that does not look at what is right, and under which a first
    chain alone decides for itself.
    """
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return None
    most = max(votes.values())
    return next(
        i for i, answer in enumerate(answers) if answer is not None and votes[answer] == most
    )


def score_majority(answers: Sequence[str | None], scores: Sequence[float]) -> float:
    """Return the score of the majority's answer; 0 where no chain answers."""
    chosen = find_majority(answers)
    return 0.0 if chosen is None else scores[chosen]


def pass_at_k(num_chains: int, num_right: int, k: int) -> float:
    """Estimate how likely at least one of k chains is right, from all chains there are.

    It is the share of the subsets of k chains that hold a right one; with k = `num_chains` it is
    pass@all: 1 where any chain is right.

    Raises:
        ValueError: k is not between 1 and `num_chains`.

    Source: Chen et al. (2021), arXiv:2107.03374, section 2.1: 1 - C(n - c, k) / C(n, k).
    """
    if not 1 <= k <= num_chains:
        raise ValueError(
            f"pass@{k} was asked of {num_chains} chains; k must be 1 to {num_chains}. Sample more "
            "chains, or ask for a smaller k."
        )
    num_wrong = num_chains - num_right
    if num_wrong < k:
        return 1.0
    return 1.0 - prod((num_wrong - i) / (num_chains - i) for i in range(k))
