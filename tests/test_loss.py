"""The loss: against F.cross_entropy, as a sum of parts, in half precision."""

import pytest
import torch
import torch.nn.functional as F

from llama_minimal.loss import IGNORE, next_token_loss

B, T, V = 3, 7, 11


def draw(*shape, dtype=torch.float64):
    return 3 * torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def targets():
    targets = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(1))
    targets[0, 2] = targets[2, -1] = IGNORE
    return targets


@pytest.fixture
def weights():
    return 2 * torch.rand(B, T, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def test_the_mean_is_torchs_cross_entropy(targets):
    logits = draw(B, T, V)
    total, count = next_token_loss(logits, targets)
    torch.testing.assert_close(total / count, F.cross_entropy(logits.transpose(1, 2), targets))
    assert count == B * T - 2


def test_the_weighted_sum_is_the_one_written_out(targets, weights):
    logits = draw(B, T, V)
    expected_total = expected_count = 0.0
    for b in range(B):
        for t in range(T):
            if (target := int(targets[b, t])) != -100:
                probability = logits[b, t].exp()[target] / logits[b, t].exp().sum()
                expected_total -= float(weights[b, t] * probability.log())
                expected_count += float(weights[b, t])
    total, count = next_token_loss(logits, targets, weights)
    assert (float(total), float(count)) == pytest.approx((expected_total, expected_count), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_weights_of_0_and_1_choose_targets(targets, dtype):
    logits, chosen = draw(B, T, V), torch.arange(B * T).view(B, T) % 3 == 0
    expected = next_token_loss(logits, targets.masked_fill(~chosen, IGNORE))
    torch.testing.assert_close(next_token_loss(logits, targets, chosen.to(dtype)), expected)


@pytest.mark.parametrize("weighted", [False, True])
def test_micro_batches_add_up_to_the_whole(targets, weights, weighted):
    """Rows with different numbers of targets: a mean of means would differ."""
    targets[0, 3:] = IGNORE
    inputs = (draw(B, T, V), targets, *([weights] if weighted else []))
    parts = [next_token_loss(*(part[rows] for part in inputs)) for rows in (slice(1), slice(1, 3))]
    whole = next_token_loss(*inputs)
    torch.testing.assert_close(tuple(map(sum, zip(*parts, strict=True))), whole)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_float32(targets, weights, dtype, weighted):
    logits = draw(B, T, V).to(dtype)
    weights = weights if weighted else None
    total, count = next_token_loss(logits, targets, weights)
    assert total.dtype == count.dtype == torch.float32
    exact, exact_count = next_token_loss(logits.double(), targets, weights)
    assert exact.dtype == torch.float64
    torch.testing.assert_close((total.double(), count.double()), (exact, exact_count), rtol=1e-6, atol=0)


def test_large_logits_do_not_overflow():
    logits = torch.tensor([[[6e4, -6e4, 0.0]]], dtype=torch.float16)
    assert next_token_loss(logits, torch.tensor([[0]]))[0] == 0
    assert next_token_loss(logits, torch.tensor([[1]]))[0] == 120_000  # float16 ends at 65,504


def test_gradients(targets, weights):
    logits = draw(B, T, V).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: next_token_loss(x, targets)[0], logits)
    assert torch.autograd.gradcheck(lambda x: next_token_loss(x, targets, weights)[0], logits)
    (gradient,) = torch.autograd.grad(next_token_loss(logits, targets)[0], logits)
    assert not gradient[targets == IGNORE].any()


def test_a_batch_without_targets_costs_nothing_and_has_no_gradient():
    logits = draw(1, 2, V).requires_grad_()
    total, count = next_token_loss(logits, torch.full((1, 2), IGNORE))
    assert (total.item(), count.item()) == (0, 0)
    total.backward()
    assert not logits.grad.any()
