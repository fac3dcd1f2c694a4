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


def test_an_ignored_target_costs_nothing_whatever_its_logits(targets):
    """It has to name some column, whose logit may be −∞: 0 · ∞ would spoil the sum."""
    logits, expected = draw(B, T, V), next_token_loss(draw(B, T, V), targets)
    logits[targets == IGNORE] = torch.tensor([-torch.inf] + [0.0] * (V - 1), dtype=logits.dtype)
    logits.requires_grad_()
    total, count = next_token_loss(logits, targets)
    torch.testing.assert_close((total, count), expected)
    (gradient,) = torch.autograd.grad(total, logits)
    assert gradient.isfinite().all()
    assert (gradient[targets == IGNORE] == 0).all()


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


def test_the_gradient_of_one_target_is_softmax_minus_one_hot(targets, weights):
    """In torch.func, where a function may not keep its own notes on the way."""
    logits = draw(B, T, V)
    for weight in (None, weights):
        total = torch.func.grad(lambda x, w=weight: next_token_loss(x, targets, w)[0])(logits)
        expected = logits.softmax(-1) - F.one_hot(targets.clamp(min=0), V)
        expected *= ((targets != IGNORE) * (1 if weight is None else weight))[..., None]
        torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("in_dims", [(0, 0), (1, 0), (0, None), (None, 0), (2, 1)])
def test_vmapped_losses_and_gradients_are_those_of_a_loop(in_dims):
    n = 4
    shapes = [(B, T, V), (B, T)]
    logits, targets = (
        draw(*shape) if dim is None else draw(n, *shape).movedim(0, dim)
        for shape, dim in zip(shapes, in_dims, strict=True)
    )
    targets = targets.abs().mul(10).long() % V
    targets[..., 0] = IGNORE

    def example(i):
        return [x if dim is None else x.select(dim, i) for x, dim in zip((logits, targets), in_dims, strict=True)]

    def loss(x, y):
        return next_token_loss(x, y)[0]

    losses = torch.vmap(loss, in_dims)(logits, targets)
    torch.testing.assert_close(losses, torch.stack([loss(*example(i)) for i in range(n)]))
    gradients = torch.vmap(torch.func.grad(loss), in_dims)(logits, targets)
    expected = []
    for i in range(n):
        x, y = example(i)
        x = x.clone().requires_grad_()
        expected += torch.autograd.grad(loss(x, y), x)
    torch.testing.assert_close(gradients, torch.stack(expected))
    # The other order: the gradient of a sum of vmapped losses.
    whole = torch.func.grad(lambda x: torch.vmap(loss, in_dims)(x, targets).sum())(logits)
    sums = gradients.sum(0) if in_dims[0] is None else gradients.movedim(0, in_dims[0])
    torch.testing.assert_close(whole, sums)


class Bytes(torch.utils._python_dispatch.TorchDispatchMode):
    """Count the bytes of all tensors of at least one size that operations make."""

    def __init__(self, at_least):
        super().__init__()
        self.at_least, self.made = at_least, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        made = isinstance(out, torch.Tensor) and out.numel() >= self.at_least and not function.is_view
        self.made += out.nbytes if made and not function._schema.is_mutable else 0
        return out


def test_the_loss_makes_one_array_of_the_size_of_the_logits_and_its_gradient_one_more(targets):
    logits = draw(B, T, V).requires_grad_()
    with Bytes(logits.numel()) as forward:
        total, _ = next_token_loss(logits, targets)
    with Bytes(logits.numel()) as backward:
        total.backward()
    assert (forward.made, backward.made) == (logits.nbytes, logits.nbytes)


@pytest.mark.parametrize("wrong", [V, V + 5, -1, -99, 10**6])
def test_a_target_that_is_no_token_is_named(targets, wrong):
    targets[1, 3] = wrong
    with pytest.raises(ValueError, match=f"target {wrong} is not among the ids 0 to {V - 1}"):
        next_token_loss(draw(B, T, V), targets)


def test_another_mistake_keeps_its_own_message(targets):
    with pytest.raises(RuntimeError, match="Size does not match"):
        next_token_loss(draw(B, T - 1, V), targets)
