"""Exercises of chapter 12, fine-tuning."""

import numpy as np

from llama_minimal.course.checks import tuning_answers as of
from llama_minimal.course.exercises import Exercise

_RNG = np.random.default_rng(12)

EXERCISES = {
    "chat_targets": Exercise(
        right=of.chat(),
        cases=[of.chat_case(_RNG), of.chat_case(_RNG, 6), of.chat_case(_RNG, 3)],
        draw=lambda rng: of.chat_case(rng, int(rng.integers(2, 7))),
        mistakes={
            "all tokens are learned, the user's, too: the model would learn to ask the questions itself": of.chat(
                learned=lambda role, i, n: True
            ),
            "this learns what the user says, and not what the assistant says": of.chat(
                learned=lambda role, i, n: role == "user"
            ),
            "only the last answer is learned; the earlier ones are answers, too": of.chat(
                learned=lambda role, i, n: role == "assistant" and i >= n - 2
            ),
            "the end of an answer is not learned: the model would never stop": of.chat(end=False),
            "here every turn ends with an eos; it stands behind the assistant's turns alone": of.chat(
                ended=("user", "assistant")
            ),
            "the targets are the inputs themselves; each target is the token after its input": of.chat(shift=0),
            "the mask belongs to the inputs here, and not to the targets: the first token of each answer is "
            "not learned, and what follows its end is": of.chat(shift=2),
            "the last token is an input here, with no token after it: the rows are one token shorter than the chat": (
                of.chat(keep_last=True)
            ),
        },
    ),
    "prefix_mask": Exercise(
        right=of.prefix_mask,
        cases=[of.mask_case(_RNG), of.mask_case(_RNG, (2, 6)), of.mask_case(_RNG, (3, 2, 3, 2))],
        draw=of.drawn_mask_case,
        mistakes={
            "documents leak: a question sees another document's question, and everything before it": of.mask_without(
                same=False
            ),
            "this is the causal mask within each document; a question's tokens also see those after them": (
                lambda documents, question: (documents[:, None] == documents) & np.tri(len(documents), dtype=bool)
            ),
            "only a question's tokens are seen: an answer does not see its own tokens": of.mask_without(causal=False),
            "a question sees the answer that it is to be learned from": of.mask_without(keys=False),
            "an answer sees its question and itself, but none of its own tokens before": lambda documents, question: (
                (documents[:, None] == documents) & (question | np.eye(len(question), dtype=bool))
            ),
            "rows and columns are exchanged: row i says whom token i sees": lambda documents, question: (
                of.prefix_mask(documents, question).T
            ),
            "this says who must not look; True means that a token may": lambda documents, question: (
                ~of.prefix_mask(documents, question)
            ),
            "each token of a document sees all of it, its answer included": lambda documents, question: (
                documents[:, None] == documents
            ),
            "a token must see itself, too": lambda documents, question: (
                of.prefix_mask(documents, question) & ~np.eye(len(documents), dtype=bool)
            ),
        },
    ),
    "lora_gradients": Exercise(
        right=of.lora_gradients,
        cases=[of.lora_case(_RNG), of.lora_case(_RNG, 3, 3, 6), of.lora_case(_RNG, 5, 1, 2)],
        draw=lambda rng: of.lora_case(rng, *(rng.integers(2, 6, size=3).tolist())),
        mistakes={
            "the scale α/r is missing": of.scaled(lambda a, b, alpha: 1.0),
            "the scale is α here; it is α/r": of.scaled(lambda a, b, alpha: alpha),
            "the scale is α over the width here; r is the number of rows of A": of.scaled(
                lambda a, b, alpha: alpha / a.shape[1]
            ),
            "the scale is α/√r here, that of rsLoRA; it is α/r": of.scaled(lambda a, b, alpha: alpha / np.sqrt(len(a))),
            "the scale is r/α here; it is α/r": of.scaled(lambda a, b, alpha: len(a) / alpha),
            "the scale counts twice": of.scaled(lambda a, b, alpha: (alpha / len(a)) ** 2),
            "the two are in reverse order: dA, dB": lambda d_w, a, b, alpha: of.lora_gradients(d_w, a, b, alpha)[::-1],
            "both are transposed: dA has the shape of A": lambda d_w, a, b, alpha: tuple(
                part.T for part in of.lora_gradients(d_w, a, b, alpha)
            ),
            "the sign is turned: these are the gradients, and a step goes against them": of.scaled(
                lambda a, b, alpha: -alpha / len(a)
            ),
        },
    ),
    "first_update": Exercise(
        right=of.first_update,
        cases=[of.step_case(_RNG), of.step_case(_RNG, 3, 3, 6), of.step_case(_RNG, 5, 1, 3)],
        draw=lambda rng: of.step_case(rng, *(rng.integers(2, 6, size=3).tolist())),
        mistakes={
            "the scale counts once here; it is in the gradient of B and again in what B does": (
                lambda d_w, a, alpha, lr: of.first_update(d_w, a, alpha, lr) / (alpha / len(a))
            ),
            "the scale α/r is missing, twice": lambda d_w, a, alpha, lr: -lr * d_w @ a.T @ a,
            "this is what a step with all weights would do; the adapter sees dW only along the rows of A": (
                lambda d_w, a, alpha, lr: -lr * d_w
            ),
            "this is how B changes; multiply it by A, and by the scale": lambda d_w, a, alpha, lr: (
                -lr * alpha / len(a) * d_w @ a.T
            ),
            "the sign is turned: a step goes against the gradient": lambda d_w, a, alpha, lr: (
                -of.first_update(d_w, a, alpha, lr)
            ),
            "the scale is α here; it is α/r": lambda d_w, a, alpha, lr: -lr * alpha**2 * d_w @ a.T @ a,
            "nothing changes? B is zero before the step, and not after it": lambda d_w, a, alpha, lr: 0 * d_w,
        },
    ),
    "merged": Exercise(
        right=of.merged(),
        cases=[of.adapters_case(_RNG), of.adapters_case(_RNG, (2, 2)), of.adapters_case(_RNG, (1, 4), 3, 6)],
        draw=lambda rng: of.adapters_case(rng, tuple(rng.integers(1, 4, size=2).tolist())),
        mistakes={
            "the scales α/r are missing": of.merged(scales="none"),
            "the scales are in A; the task wants them in B": of.merged(scales="A"),
            "the second adapter comes first": of.merged(order=-1),
            "the scale is α here; it is α/r of each adapter": of.merged(over=lambda alpha, r: alpha),
            "both are halved: the two updates add up, they are not averaged": of.merged(
                over=lambda alpha, r: alpha / r / 2
            ),
            "the first adapter's scale serves both here; each has its own": lambda a1, b1, alpha1, a2, b2, alpha2: (
                of.merged()(a1, b1, alpha1, a2, b2, alpha1 / len(a1) * len(a2))
            ),
        },
    ),
    "forgetting": Exercise(
        right=of.forgetting,
        cases=[of.forget_case(_RNG), of.forget_case(_RNG)],
        draw=of.forget_case,
        mistakes={
            "the sign is turned: a step goes against the new task's gradient": lambda old, new, lr: (
                -of.forgetting(old, new, lr)
            ),
            "the learning rate is missing": lambda old, new, lr: of.forgetting(old, new, 1.0),
            "this is the cosine of the two gradients; the change is their product": lambda old, new, lr: (
                of.forgetting(old, new, -1.0) / of.lengths(old, new)
            ),
            "this is the product of their lengths; gradients at right angles would not disturb each other": (
                lambda old, new, lr: -lr * of.lengths(old, new)
            ),
            "only the first weight counts here; add up all": lambda old, new, lr: of.forgetting(old[:1], new[:1], lr),
            "this is how the new task's own loss falls; the question is what happens to the old one": (
                lambda old, new, lr: of.forgetting(new, new, lr)
            ),
            "this is the mean over the weights' products; a change is a sum": lambda old, new, lr: (
                of.forgetting(old, new, lr) / sum(part.size for part in old)
            ),
        },
    ),
}
