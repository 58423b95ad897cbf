"""The two terms of the retrofit loss: stay close to the teacher, and forget enough.

Knows nothing of models: hidden states and the functions that project them to logits come in.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Direction = Literal["student", "teacher"]
Projection = Callable[[Tensor], Tensor]

CHUNK_TOKENS = 1024


def compression_loss(mean_alpha: Float[Tensor, ""], target: float) -> Float[Tensor, ""]:
    """How far the evicted share stays below its target; nothing for being above it.

    Args:
        mean_alpha: straight-through mean over layers, heads and positions together. It is one
            global mean, so that heads may specialise; over several processes or micro batches,
            pass the mean over all of them (with the gradient of the own part).
        target: the share of tokens to evict.

    Source: DMS, arXiv:2506.05345; one-sided and global as in the authors' released code.
    """
    return (target - mean_alpha).clamp_min(0.0)


def token_divergence(
    student: Float[Tensor, "N V"], teacher: Float[Tensor, "N V"], direction: Direction
) -> Float[Tensor, " N"]:
    """KL divergence of each token's two distributions, in nats; at least in float32.

    `student` weighs by the student: sum p_S (log p_S - log p_T), as in the authors' released code;
    `teacher` by the teacher: sum p_T (log p_T - log p_S).
    """
    dtype = torch.promote_types(student.dtype, torch.float32)
    log_student = torch.log_softmax(student, dim=-1, dtype=dtype)
    log_teacher = torch.log_softmax(teacher, dim=-1, dtype=dtype)
    if direction == "student":
        return (log_student.exp() * (log_student - log_teacher)).sum(-1)
    return (log_teacher.exp() * (log_teacher - log_student)).sum(-1)


def distillation_loss(
    student_hidden: Float[Tensor, "N C"],
    teacher_hidden: Float[Tensor, "N C"],
    weights: Float[Tensor, " N"],
    *,
    project_student: Projection,
    project_teacher: Projection,
    direction: Direction = "student",
    chunk_tokens: int = CHUNK_TOKENS,
) -> Float[Tensor, ""]:
    """Sum of weight times KL over all tokens, a chunk of tokens at a time.

    No more than `chunk_tokens` rows of logits exist at once, neither forward nor backward: each
    chunk is projected again for its gradient. Tokens of weight 0 are never projected. For the mean
    over real tokens divide by the sum of the weights (of all processes and micro batches).
    """
    chosen = weights.nonzero().squeeze(-1)
    student_hidden, teacher_hidden = student_hidden[chosen], teacher_hidden[chosen].detach()
    weights = weights[chosen]

    def weigh_chunk(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
        with torch.no_grad():
            target = project_teacher(teacher)
        return (token_divergence(project_student(student), target, direction) * weight).sum()

    if len(chosen) <= chunk_tokens:
        return weigh_chunk(student_hidden, teacher_hidden, weights)
    parts = []
    for start in range(0, len(chosen), chunk_tokens):
        rows = slice(start, start + chunk_tokens)
        chunk = (student_hidden[rows], teacher_hidden[rows], weights[rows])
        parts.append(checkpoint(weigh_chunk, *chunk, use_reentrant=False))
    return torch.stack(parts).sum()
