import math

import pytest
import torch

from snello.dms.loss import compression_loss, distillation_loss, token_divergence


def test_missing_the_target_costs_what_is_missing():
    """Half evicted, 0.875 asked for: 0.375, and every evicted token helps by one."""
    mean = torch.tensor(0.5, requires_grad=True)
    loss = compression_loss(mean, 0.875)
    loss.backward()
    assert loss.item() == pytest.approx(0.375)
    assert mean.grad.item() == -1.0


def test_evicting_more_than_asked_costs_nothing():
    mean = torch.tensor(0.9, requires_grad=True)
    loss = compression_loss(mean, 0.875)
    loss.backward()
    assert loss.item() == 0.0
    assert mean.grad.item() == 0.0


def test_one_head_may_keep_what_another_forgets():
    """The mean is global: heads at 0.75 and 1.0 meet a target of 0.875 together."""
    heads = torch.tensor([0.75, 1.0])
    assert compression_loss(heads.mean(), 0.875).item() == 0.0
    apart = torch.stack([compression_loss(head, 0.875) for head in heads])
    assert apart.mean().item() == pytest.approx(0.0625)


def test_divergence_on_a_page_of_paper():
    """Student (3/4, 1/4), teacher (1/2, 1/2)."""
    student, teacher = torch.tensor([[3.0, 1.0]]).log(), torch.tensor([[1.0, 1.0]]).log()
    forth = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    back = 0.5 * math.log(1 / 1.5) + 0.5 * math.log(1 / 0.5)
    assert token_divergence(student, teacher, "student").item() == pytest.approx(forth)
    assert token_divergence(student, teacher, "teacher").item() == pytest.approx(back)


def make_case():
    torch.manual_seed(1)
    head = torch.nn.Linear(6, 11).double()
    teacher_head = torch.nn.Linear(6, 11).double()
    student = torch.randn(23, 6, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(23, 6, dtype=torch.float64)
    weights = torch.rand(23, dtype=torch.float64) * (torch.arange(23) % 3 > 0)
    return student, teacher, weights, head, teacher_head


@pytest.mark.parametrize("direction", ["student", "teacher"])
@pytest.mark.parametrize("chunk_tokens", [1, 7, 100])
def test_chunks_change_neither_value_nor_gradients(direction, chunk_tokens):
    student, teacher, weights, head, teacher_head = make_case()
    inputs = [student, *head.parameters()]
    plain = token_divergence(head(student), teacher_head(teacher).detach(), direction) @ weights
    expected = torch.autograd.grad(plain, inputs)
    chunked = distillation_loss(
        student,
        teacher,
        weights,
        project_student=head,
        project_teacher=teacher_head,
        direction=direction,
        chunk_tokens=chunk_tokens,
    )
    torch.testing.assert_close(chunked, plain, rtol=1e-6, atol=1e-9)
    for gradient, wanted in zip(torch.autograd.grad(chunked, inputs), expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-8)


def test_no_more_than_a_chunk_is_ever_projected():
    student, teacher, weights, head, _ = make_case()
    sizes = []

    def project(hidden):
        sizes.append(len(hidden))
        return head(hidden)

    distillation_loss(
        student, teacher, weights, project_student=project, project_teacher=project, chunk_tokens=4
    ).backward()
    assert max(sizes) == 4
    assert sum(sizes) == 4 * int((weights > 0).sum())  # two models, forward and again backward


def test_tokens_of_weight_zero_count_for_nothing():
    student, teacher, weights, head, teacher_head = make_case()
    spoiled = student.detach().clone()
    spoiled[weights == 0] = torch.nan
    losses = [
        distillation_loss(
            hidden, teacher, weights, project_student=head, project_teacher=teacher_head
        )
        for hidden in (student, spoiled)
    ]
    assert losses[0].item() == losses[1].item()


def test_the_same_hidden_states_cost_nothing():
    student, _, weights, head, _ = make_case()
    loss = distillation_loss(
        student, student.detach(), weights, project_student=head, project_teacher=head
    )
    assert abs(loss.item()) < 1e-6


def test_a_batch_without_any_weight_has_a_loss_of_zero_with_gradient():
    student, teacher, weights, head, teacher_head = make_case()
    loss = distillation_loss(
        student, teacher, 0 * weights, project_student=head, project_teacher=teacher_head
    )
    loss.backward()
    assert loss.item() == 0.0
    assert student.grad.abs().sum().item() == 0.0


def test_the_teacher_gets_no_gradient():
    student, teacher, weights, head, teacher_head = make_case()
    teacher.requires_grad_()
    distillation_loss(
        student, teacher, weights, project_student=head, project_teacher=teacher_head
    ).backward()
    assert teacher.grad is None
    assert all(parameter.grad is None for parameter in teacher_head.parameters())
