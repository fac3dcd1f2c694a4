"""Exercises of chapter 16, distillation."""

import numpy as np

from llama_minimal.course.checks import distillation_answers as of
from llama_minimal.course.exercises import Exercise

_RNG = np.random.default_rng(16)

EXERCISES = {
    "skewed_gradient": Exercise(
        right=of.skewed_gradient(),
        cases=[of.logits_case(_RNG, 5, 0.3), of.logits_case(_RNG, 4, 0.9), of.logits_case(_RNG, 7, 0.5)],
        draw=lambda rng: of.logits_case(rng, int(rng.integers(3, 9)), float(rng.uniform(0.2, 0.9))),
        mistakes={
            "this is q − p, the gradient of KL(p ‖ q); the mixture is compared here": lambda z, v, beta: (
                of.softmax(z) - of.softmax(v)
            ),
            "the mixture is the other way round: β is the student's share of it": of.skewed_gradient(
                share=lambda beta: 1 - beta
            ),
            "the factor β is missing: the mixture moves by β times what q moves": of.skewed_gradient(factor=False),
            "the sign is turned: where p is larger than m, z should rise, so the gradient is negative": (
                of.skewed_gradient(sign=-1)
            ),
            "the mean is missing: the entries of a softmax's gradient add up to zero": of.skewed_gradient(mean="none"),
            "the mean is taken under p here; the softmax that is differentiated is q": of.skewed_gradient(mean="p"),
            "the mean is taken over all tokens alike here; it is the mean under q": of.skewed_gradient(mean="flat"),
            "this is the gradient with respect to q; go on to z, through the softmax": lambda z, v, beta: (
                -beta * of.ratio(z, v, beta)
            ),
            "this is q − m; it would be so if m were a target, but m moves with the student": lambda z, v, beta: (
                of.softmax(z) - (1 - beta) * of.softmax(v) - beta * of.softmax(z)
            ),
        },
    ),
    "steps_for_one": Exercise(
        right=of.steps_for_one,
        cases=[(1.5, 8.4, 1), (1.5, 8.4, 4), (2.0, 3.0, 10)],
        draw=lambda rng: (float(rng.uniform(1, 3)), float(rng.uniform(3, 20)), int(rng.integers(2, 9))),
        mistakes={
            "this is the teacher beside the student, in every epoch; from a cache it reads each text once": (
                lambda s, t, epochs: (3 * s + t) / (3 * s)
            ),
            "a step of the student costs three forward passes, and the teacher's reading one": (
                lambda s, t, epochs: (s + t / epochs) / s
            ),
            "this is what the teacher adds; the student's own step counts as well": lambda s, t, epochs: (
                t / epochs / (3 * s)
            ),
            "this is for all epochs together; a step is wanted": lambda s, t, epochs: (3 * s * epochs + t) / (3 * s),
            "the fraction is upside down": lambda s, t, epochs: 3 * s / (3 * s + t / epochs),
            "the more epochs, the less each of them pays of the one reading": lambda s, t, epochs: (
                (3 * s + t * epochs) / (3 * s)
            ),
            "this is a cost in FLOPs; divide by that of a step on the text alone": lambda s, t, epochs: (
                3 * s + t / epochs
            ),
        },
    ),
    "text_divergence": Exercise(
        right=of.text_divergence(),
        cases=[of.tables_case(_RNG, 3, 4), of.tables_case(_RNG, 4, 1), of.tables_case(_RNG, 2, 6)],
        draw=lambda rng: of.tables_case(rng, int(rng.integers(2, 5)), int(rng.integers(2, 6))),
        mistakes={
            "the teacher writes here; for KL(Q ‖ P) the student does": of.text_divergence(writer="p"),
            "this is the forward direction, KL(P ‖ Q)": of.text_divergence(writer="p", forward=True),
            "the student writes, but each token is compared forward, KL(p ‖ q)": of.text_divergence(forward=True),
            "the first token is missing: its distributions are the starts": of.text_divergence(first=False),
            "this is a token too many: after the first there are n − 1": of.text_divergence(more=1),
            "the rows are averaged alike here; the student stands at some tokens more often": of.text_divergence(
                occupied=False
            ),
            "the place does not move: after each round, at = at @ table": of.text_divergence(moves=False),
            "this is a mean over the tokens; texts add up": of.text_divergence(mean=True),
            "the table is transposed: row i is what comes after token i": of.text_divergence(transposed=True),
        },
    ),
    "loss": Exercise(
        right=of.loss(),
        cases=[of.loss_case(_RNG, 6, 105), of.loss_case(_RNG, 4, 101), of.loss_case(_RNG, 8, 120)],
        draw=lambda rng: of.loss_case(rng, int(rng.integers(3, 9)), int(rng.integers(101, 130))),
        mistakes={
            "the factor τ² is missing": of.loss(square=False),
            "the factor is τ here; the gradient shrinks with its square": of.loss(square="once"),
            "the direction is the reverse one, KL(q ‖ p)": of.loss(forward=False),
            "the teacher's logits are not divided by τ": of.loss(teacher_tau=False),
            "the text's own loss is at τ here; it is at τ = 1": of.loss(hard_tau=True),
            "tokens with the target −100 count here": of.loss(mask="none"),
            "the tokens that do not count are left out of the sum, but still divide it": of.loss(mask="sum"),
            "what does not count is left out of the text's loss, but not of the teacher's": of.loss(mask="hard"),
            "the two weights are exchanged: λ = 1 is the teacher alone": of.loss(exchanged=True),
            "this is the sum; divide by how many tokens count": of.loss(mean=False),
            "this is the loss as it stands, with all four bugs": of.buggy_loss,
        },
    ),
    "temperature_for": Exercise(
        right=of.temperature_for(),
        cases=[of.perplexity_case(_RNG, 8, 3.0), of.perplexity_case(_RNG, 20, 1.5), of.perplexity_case(_RNG, 12, 11.0)],
        draw=lambda rng: of.perplexity_case(rng, int(rng.integers(5, 20)), float(rng.uniform(1.5, 4.5))),
        mistakes={
            "this is one over the temperature": of.temperature_for(answer=lambda tau: 1 / tau),
            "this is the logarithm of the temperature": of.temperature_for(answer=np.log),
            "this is the square of the temperature": of.temperature_for(answer=np.square),
            "one over the largest probability is made equal to the perplexity here": of.temperature_for(
                measure=lambda q: 1 / q.max()
            ),
            "one over the sum of squares is made equal to the perplexity here; that is another measure of spread": (
                of.temperature_for(measure=lambda q: 1 / (q**2).sum())
            ),
            "this takes 2 to the entropy in nats; the perplexity is e to it": of.temperature_for(
                measure=lambda q: of.perplexity(q) ** np.log(2)
            ),
        },
        tolerance=1e-5,
    ),
}
