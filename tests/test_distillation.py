"""Distillation: formulas against PyTorch's own, objectives against whole logits, and what must be refused."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from distillation_worker import RECIPE, TOKENS, V, draw_teacher
from tiny_models import draw_model
from torch.utils._python_dispatch import TorchDispatchMode

from llama_minimal import reference
from llama_minimal.data import EncodedExample, PackedExamples
from llama_minimal.distillation import (
    Distillation,
    DistillationConfig,
    check_teacher,
    distillation_loss,
    forward_kl,
    forward_kl_top,
    hidden_loss,
    keep_top,
    principal_projections,
    reverse_kl,
    reverse_kl_top,
)
from llama_minimal.lora import LoRAConfig, add_adapter
from llama_minimal.loss import IGNORE, next_token
from llama_minimal.mixed_precision import autocast
from llama_minimal.settings import TrainConfig
from llama_minimal.tokenizer import Tokenizer
from llama_minimal.training import Trainer

KLS = {"forward": forward_kl, "reverse": reverse_kl}


def draw(*shape, seed=0, dtype=torch.float64):
    return 2 * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture
def student():
    return draw_model(seed=1, n_layers=2)


@pytest.fixture
def teacher():
    return draw_teacher()


@pytest.fixture
def batch():
    tokens = torch.randint(V, (5, 9), generator=torch.Generator().manual_seed(3))
    inputs, targets = tokens[:, :-1], tokens[:, 1:].clone()
    targets[0, 3:] = targets[2, 1] = IGNORE
    return inputs, targets


def by_hand(student, teacher, batch, config):
    """The objective from whole logits, by autograd."""
    inputs, targets, *documents = batch
    options = {"documents": documents[0]} if documents else {}
    ours, theirs = student(inputs, **options), teacher(inputs, **options).detach()
    log_q, log_p = ((z / config.temperature).log_softmax(-1) for z in (ours, theirs))
    a, b = (log_p, log_q) if config.divergence == "forward" else (log_q, log_p)
    kl = (a.exp() * (a - b)).sum(-1)[targets != IGNORE].sum()
    nll = F.cross_entropy(ours.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")
    return (1 - config.weight) * nll + config.weight * config.temperature**2 * kl


def gradients(total, model):
    return dict(zip(dict(model.named_parameters()), torch.autograd.grad(total, list(model.parameters())), strict=True))


# ---- divergences


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_divergences_are_torchs(temperature):
    q, p = draw(3, 5, V), draw(3, 5, V, seed=1)
    log_q, log_p = ((z / temperature).log_softmax(-1) for z in (q, p))
    for kl, first, second in ((forward_kl, log_p, log_q), (reverse_kl, log_q, log_p)):
        expected = F.kl_div(second, first, reduction="none", log_target=True).sum(-1)
        torch.testing.assert_close(kl(q, p, temperature), expected)
        assert (kl(q, p, temperature) > 0).all()
        torch.testing.assert_close(kl(p + 7, p, temperature), torch.zeros(3, 5, dtype=torch.float64))


def test_gradients_are_those_of_differences():
    q, p = draw(2, 3, 7).requires_grad_(), draw(2, 3, 7, seed=1)
    ids, log_probs = keep_top(p, 3, 2.0)
    for kl in (forward_kl, reverse_kl):
        assert torch.autograd.gradcheck(lambda x, kl=kl: kl(x, p, 2.0), q)
    for kl in (forward_kl_top, reverse_kl_top):
        assert torch.autograd.gradcheck(lambda x, kl=kl: kl(x, ids, log_probs, 2.0), q)


@pytest.mark.parametrize("k", [1, 5, V])
def test_both_storeys_agree_on_kept_tokens(k):
    q, p = draw(4, V).requires_grad_(), draw(4, V, seed=1)
    ids, log_probs = keep_top(p, k, 2.0)
    theirs = reference.keep_top(p.numpy(), k, 2.0)
    np.testing.assert_array_equal(ids, theirs[0])
    np.testing.assert_allclose(log_probs, theirs[1], rtol=1e-12)
    for kl in (forward_kl_top, reverse_kl_top):
        out, backward = getattr(reference, f"{kl.__name__}_vjp")(q.detach().numpy(), *theirs, 2.0)
        ours = kl(q, ids, log_probs, 2.0)
        np.testing.assert_allclose(ours.detach(), out, rtol=1e-12)
        (gradient,) = torch.autograd.grad(ours.sum(), q)
        np.testing.assert_allclose(gradient, backward(np.ones(4)), rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize(
    ("k", "message"), [(9, "k=9 is more than the 8 logits of a token; give 1 to 8"), (0, "k=0 must be a whole number")]
)
def test_no_more_tokens_are_kept_than_there_are(k, message):
    with pytest.raises(ValueError, match=message):
        keep_top(torch.zeros(8), k)


def test_fewer_outcomes_show_less_difference_and_all_of_them_everything():
    q, p = draw(50, V), draw(50, V, seed=1)
    for whole, top in ((forward_kl, forward_kl_top), (reverse_kl, reverse_kl_top)):
        values = [top(q, *keep_top(p, k)) for k in (1, 4, 20, V)]
        for fewer, more in zip(values, values[1:], strict=False):
            assert (fewer <= more + 1e-12).all()
        torch.testing.assert_close(values[-1], whole(q, p))


def test_a_rest_smaller_than_a_rounding_error_is_still_known():
    """1 − p of the kept is 0 in float32; the rest is e⁻⁵⁰ or so."""
    logits = torch.tensor([50.0, 0.0, 1.0])
    _, log_probs = keep_top(logits, 1)
    torch.testing.assert_close(log_probs[-1], torch.tensor([0.0, 1.0]).logsumexp(0) - 50)
    q = torch.tensor([0.0, 50.0, 0.0], requires_grad=True)
    for kl in (forward_kl_top, reverse_kl_top):
        out = kl(q, *keep_top(logits, 1))
        (gradient,) = torch.autograd.grad(out, q)
        assert out.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("kl", [forward_kl, reverse_kl])
def test_half_precision_is_compared_in_float32(kl):
    q, p = (draw(4, V, seed=i).to(torch.bfloat16) for i in (0, 1))
    q.requires_grad_()
    out = kl(q, p, 2.0)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), kl(q.double(), p.double(), 2.0), rtol=1e-5, atol=1e-6)
    assert torch.autograd.grad(out.sum(), q)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("kl", [forward_kl, reverse_kl])
def test_hot_distributions_match_logits_with_the_factor(kl):
    """T² times the gradient tends to the difference of the centered logits, over V (Hinton et al. 2015)."""
    q, p = draw(3, V).requires_grad_(), draw(3, V, seed=1)
    z, v = (x.detach() - x.detach().mean(-1, keepdim=True) for x in (q, p))
    for T, tolerance in ((100.0, 0.1), (1e4, 1e-3)):
        (gradient,) = torch.autograd.grad(T**2 * kl(q, p, T).sum(), q)
        assert (gradient - (z - v) / V).norm() < tolerance * gradient.norm()


def test_forward_covers_both_peaks_and_reverse_takes_one():
    """A student with a single peak, two peaks to learn."""
    places = torch.arange(41.0, dtype=torch.float64)
    peaks = torch.logaddexp(-((places - 10) ** 2) / 8, -((places - 30) ** 2) / 8 - 0.2)
    means = {}
    for kl in (forward_kl, reverse_kl):
        mean, log_width = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (14.0, 1.5))
        optimizer = torch.optim.Adam([mean, log_width], lr=0.1)
        for _ in range(400):
            optimizer.zero_grad()
            kl(-(((places - mean) / log_width.exp()) ** 2) / 2, peaks).backward()
            optimizer.step()
        means[kl] = mean.item(), log_width.exp().item()
    assert 16 < means[forward_kl][0] < 24
    assert means[forward_kl][1] > 8
    assert abs(means[reverse_kl][0] - 10) < 1
    assert means[reverse_kl][1] < 3


def test_the_mixture_and_its_gradient_are_the_twins():
    q, p = draw(3, 5, V).requires_grad_(), draw(3, 5, V, seed=1)
    targets = torch.randint(V, (3, 5), generator=torch.Generator().manual_seed(0))
    targets[1, :2] = IGNORE
    total, count = distillation_loss(q, p, targets, 0.3, 4.0)
    (value, n), backward = reference.distillation_loss_vjp(q.detach().numpy(), p.numpy(), targets.numpy(), 0.3, 4.0)
    assert (total.item(), count.item()) == (pytest.approx(value, rel=1e-12), n)
    np.testing.assert_allclose(torch.autograd.grad(total, q)[0], backward(1.0), rtol=1e-10, atol=1e-14)


def test_what_does_not_count_may_be_anything():
    q, p = draw(1, 2, V).requires_grad_(), draw(1, 2, V, seed=1)
    p[0, 0] = torch.nan
    total, count = distillation_loss(q, p, torch.tensor([[IGNORE, 3]]))
    total.backward()
    assert count == 1
    assert total.isfinite()
    assert q.grad[0, 1].isfinite().all()


def test_hidden_states_and_their_gradients():
    s, t, projection = draw(2, 3, 4).requires_grad_(), draw(2, 3, 5, seed=1), draw(4, 5, seed=2)
    expected, backward = reference.hidden_loss_vjp(*(x.detach().numpy() for x in (s, t, projection)))
    out = hidden_loss(s, t, projection)
    np.testing.assert_allclose(out.detach(), expected, rtol=1e-12)
    np.testing.assert_allclose(torch.autograd.grad(out.sum(), s)[0], backward(np.ones((2, 3)))[0], rtol=1e-11)


# ---- the objective


@pytest.mark.parametrize("rows", [None, 1, 7])
@pytest.mark.parametrize(
    "config",
    [
        DistillationConfig(),
        DistillationConfig(weight=1.0, divergence="reverse", temperature=3.0),
        DistillationConfig(weight=0.0),
    ],
    ids=["both", "teacher", "text"],
)
def test_value_and_gradients_are_those_of_whole_logits(student, teacher, batch, config, rows):
    total, count = Distillation(teacher, student, config, rows=rows)(student, batch)
    expected = by_hand(student, teacher, batch, config)
    assert count == (batch[1] != IGNORE).sum()
    torch.testing.assert_close(total, expected, rtol=2e-6, atol=1e-5)
    torch.testing.assert_close(gradients(total, student), gradients(expected, student), rtol=1e-4, atol=1e-4)


class Largest(TorchDispatchMode):
    """Remember the most numbers with V columns that an operation gives."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.ndim and out.size(-1) == V:
            self.numel = max(self.numel, out.numel())
        return out


def test_only_a_chunks_logits_are_ever_there(student, teacher):
    tokens = torch.randint(V, (8, 33), generator=torch.Generator().manual_seed(3))
    objective = Distillation(teacher, student, rows=16)
    with Largest() as largest:
        total, _ = objective(student, (tokens[:, :-1], tokens[:, 1:]))
        total.backward()
    assert largest.numel <= max(16 * V, 32 * V, 48 * V)  # logits of a chunk; the embeddings' tables are (V, D)
    assert largest.numel < 8 * 32 * V


def test_a_copy_of_the_teacher_has_nothing_to_learn(student, batch):
    objective = Distillation(copy.deepcopy(student), student, DistillationConfig(weight=1.0, temperature=2.0))
    total, _ = objective(student, batch)
    assert abs(total.item()) < 1e-4
    assert all(gradient.abs().max() < 1e-4 for gradient in gradients(total, student).values())


def test_micro_batches_add_up(student, teacher, batch):
    config = DistillationConfig(layers=((0, 1), (1, 3)), hidden_weight=0.5)
    projections = [draw(32, 48, seed=i, dtype=torch.float32) for i in (0, 1)]
    objective = Distillation(teacher, student, config, projections=projections)
    whole = objective(student, batch)
    parts = [objective(student, tuple(part[rows] for part in batch)) for rows in (slice(2), slice(2, 5))]
    torch.testing.assert_close(tuple(map(sum, zip(*parts, strict=True))), whole, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("layers", [((0, 0),), ((1, 3), (0, 1))])
@pytest.mark.parametrize("share", [1, 2])
def test_hidden_states_are_those_of_the_layers(teacher, batch, layers, share):
    student, teacher = draw_model(seed=1, n_layers=2, share_layers=share).double(), teacher.double()
    projections = [draw(32, 48, seed=i) for i in range(len(layers))]
    configs = [DistillationConfig(), DistillationConfig(layers=layers, hidden_weight=2.0)]
    plain = Distillation(teacher, student)(student, batch)[0]
    total = Distillation(teacher, student, configs[1], projections=projections)(student, batch)[0]

    def states(model, layer):
        x, where = model.tok_embeddings(batch[0]), torch.arange(8)[None]
        rope = tuple(table.unsqueeze(-2) for table in model.positions(where))
        for i in range(layer + 1):
            x = model.layers[str(i)](x, rope)
        return x

    expected = plain
    for (ours, theirs), projection in zip(layers, projections, strict=True):
        difference = states(student, ours) - states(teacher, theirs).detach() @ projection.T
        expected = expected + 2 * difference.square().mean(-1)[batch[1] != IGNORE].sum()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(gradients(total, student), gradients(expected, student))
    assert not student.layers["0"]._forward_hooks


def test_principal_projections_keep_the_most(teacher):
    tokens = torch.from_numpy(TOKENS[:240]).view(10, 24)
    (first, second) = principal_projections(teacher, tokens.split(4), [1, 3], 5)
    with torch.no_grad():
        x, where = teacher.tok_embeddings(tokens), torch.arange(24)[None]
        for i in range(4):
            x = teacher.layers[str(i)](x, tuple(table.unsqueeze(-2) for table in teacher.positions(where)))
    states = x.flatten(0, 1).double().numpy()
    values = np.linalg.svd(states, compute_uv=False)
    P = second.double().numpy()
    np.testing.assert_allclose(P @ P.T, np.eye(5), atol=1e-5)
    left = ((states - states @ P.T @ P) ** 2).sum()
    np.testing.assert_allclose(left, (values[5:] ** 2).sum(), rtol=1e-4)
    assert first.shape == second.shape == (5, 48)
    assert not torch.equal(first, second)


def test_packed_examples_are_compared_as_if_each_were_alone(student, teacher):
    examples = [
        EncodedExample(TOKENS[i : i + n].tolist(), [j >= 2 for j in range(n)]) for i, n in ((0, 6), (20, 7), (50, 5))
    ]
    packed = PackedExamples.pack(examples, seq_len=16)
    objective = Distillation(teacher, student)
    whole = objective(student, tuple(map(torch.from_numpy, packed.rows(slice(None)))))
    alone = [objective(student, tuple(torch.tensor(row)[None] for row in example.rows())) for example in examples]
    torch.testing.assert_close(tuple(map(sum, zip(*alone, strict=True))), whole, rtol=1e-5, atol=1e-4)


def test_autocast_changes_little(student, teacher, batch):
    objective = Distillation(teacher, student, DistillationConfig(weight=1.0))
    exact = objective(student, batch)[0]
    with autocast("bf16", torch.device("cpu")):
        total, count = objective(student, batch)
    assert total.dtype == count.dtype == torch.float32
    torch.testing.assert_close(total, exact, rtol=0.05, atol=0)
    ours, theirs = gradients(total, student), gradients(exact, student)
    for name, gradient in ours.items():
        assert F.cosine_similarity(gradient.flatten(), theirs[name].flatten(), dim=0) > 0.97, name


def test_the_teacher_is_only_read(student, teacher, batch):
    add_adapter(teacher, "noisy", LoRAConfig(dropout=0.5))
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            if name.endswith(".B"):  # starts at zero, and hides the dropout
                parameter.fill_(0.1)
    teacher.train()
    before = {name: p.clone() for name, p in teacher.named_parameters()}
    objective = Distillation(teacher, student)
    first, again = objective(student, batch)[0], objective(student, batch)[0]
    assert first == again  # no dropout
    first.backward()
    assert teacher.training
    for name, parameter in teacher.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])


def test_validation_is_the_loss_of_the_next_token(student, teacher):
    trainer = Trainer(student, TOKENS, RECIPE, validation=TOKENS[:100], objective=Distillation(teacher, student))
    plain = Trainer(student, TOKENS, RECIPE, validation=TOKENS[:100])
    assert trainer.validate() == plain.validate()


def test_training_brings_the_student_to_the_teacher(student, teacher):
    config = DistillationConfig(weight=1.0)
    recipe = TrainConfig(steps=60, batch_size=8, seq_len=16, lr=1e-2, warmup_steps=5)
    losses = [
        m["loss"] for m in Trainer(student, TOKENS, recipe, objective=Distillation(teacher, student, config)).run()
    ]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


@pytest.mark.parametrize("micro_batch_size", [None, 1])
def test_a_resumed_run_goes_on_to_the_bit(teacher, tmp_path, micro_batch_size):
    config = DistillationConfig(layers=((1, 3),), hidden_weight=0.1, divergence="reverse")
    projections = [draw(32, 48, dtype=torch.float32)]

    def trainer(out):
        student = draw_model(seed=1)
        objective = Distillation(teacher, student, config, projections=projections)
        recipe = replace(RECIPE, micro_batch_size=micro_batch_size)
        return Trainer(student, TOKENS, recipe, out=out, objective=objective)

    whole, broken, resumed = trainer(tmp_path / "a"), trainer(tmp_path / "b"), trainer(tmp_path / "b")
    expected = [m["loss"] for m in whole.run()]
    for metrics in broken.run():
        if metrics["step"] == 3:
            break
    assert resumed.resume()
    assert [m["loss"] for m in resumed.run()] == expected[3:]
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


# ---- what is refused


def test_a_teacher_that_does_not_fit_is_refused(student, teacher):
    with pytest.raises(ValueError, match=r"vocab_size: 60 and 61\), so its probabilities are for other outcomes"):
        Distillation(draw_model(vocab_size=60), student)
    with pytest.raises(ValueError, match="one model, which would follow itself"):
        check_teacher(student, student)
    with pytest.raises(ValueError, match=r"labels are not the student's \(labels: \('a', 'b'\) and None\)"):
        check_teacher(student, draw_model(labels=("a", "b")))
    ours, theirs = (Tokenizer.train([text * 9], vocab_size=270) for text in ("some text here ", "other words there "))
    with pytest.raises(ValueError, match="trained with another tokenizer: the same ids mean other pieces of text"):
        Distillation(teacher, student, tokenizer=ours, teacher_tokenizer=theirs)
    Distillation(teacher, student, tokenizer=ours, teacher_tokenizer=ours)


def test_rows_longer_than_the_teachers_context_are_refused(student, batch):
    with pytest.raises(ValueError, match="rows of 8 tokens do not fit the teacher's context of 7"):
        Distillation(draw_model(max_seq_len=7), student)(student, batch)


def test_hidden_states_that_cannot_be_compared_are_refused(student, teacher, batch):
    def config(*layers):
        return DistillationConfig(layers=layers, hidden_weight=1.0)

    with pytest.raises(ValueError, match=r"32 wide, the teacher 48; give projections, a \(32, 48\) matrix"):
        Distillation(teacher, student, config((0, 1)))
    with pytest.raises(ValueError, match="layer 2 is not among the student's layers 0 to 1"):
        Distillation(teacher, student, config((2, 1)))
    with pytest.raises(ValueError, match="layer 4 is not among the teacher's layers 0 to 3"):
        Distillation(teacher, student, config((0, 4)))
    with pytest.raises(
        ValueError, match=r"shapes \[\(48, 32\)\]; give 1, one for each pair of layers, each \(32, 48\)"
    ):
        Distillation(teacher, student, config((0, 1)), projections=[torch.ones(48, 32)])
    with pytest.raises(ValueError, match="dim=49 is more than the teacher's width of 48"):
        principal_projections(teacher, [batch[0]], [0], 49)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": 0}, "temperature=0 must be a finite number of more than 0"),
        ({"weight": 1.5}, "weight=1.5 must be from 0"),
        ({"weight": float("nan")}, "weight=nan must be a finite number"),
        ({"divergence": "both"}, "divergence='both'"),
        ({"layers": ((0, 1),)}, "go together"),
        ({"hidden_weight": 1.0}, "go together"),
        ({"layers": (0, 1), "hidden_weight": 1.0}, "must be pairs"),
        ({"layers": ((0, -1),), "hidden_weight": 1.0}, "layers=-1 must be a whole number of at least 0"),
    ],
)
def test_a_config_that_means_nothing_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        DistillationConfig(**wrong)


def test_without_gradients_it_is_the_next_token(student, teacher, batch):
    with torch.no_grad():
        found = Distillation(teacher, student)(student, batch)
        torch.testing.assert_close(found, next_token(student, batch))
