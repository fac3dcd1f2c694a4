"""Exposure: the rank of a secret among all that might have been."""

import math

import numpy as np
import pytest
import torch

from llama_minimal import reference
from llama_minimal.config import preset
from llama_minimal.data.valley import CANARIES
from llama_minimal.model import build
from llama_minimal.responsible_ai.privacy import Canary, candidate_scores, estimated_exposure, exposure, rank
from llama_minimal.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["The secret number of the mill is told to nobody at the mill."] * 3, vocab_size=270)


@pytest.fixture(scope="module")
def model(tokenizer):
    shape = {"dim": 16, "n_layers": 1, "n_heads": 2, "n_kv_heads": 2, "hidden_dim": 24}
    model = build(preset("tiny", vocab_size=tokenizer.vocab_size, **shape), seed=0).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(6)
    return model


def test_the_valleys_canaries_are_read():
    for sentence in CANARIES:
        canary = Canary.of(sentence)
        assert canary.text() == sentence
        assert canary.size == 10_000
        assert canary.place == int("".join(canary.code))
    with pytest.raises(ValueError, match="no digits"):
        Canary.of("The mill has no number.")


def test_the_code_is_the_longest_row_of_digits_that_stand_alone():
    canary = Canary.of("Story 12: the 3 secret numbers of mill 7 are 4 7 1 3.")
    assert canary.template == "Story 12: the 3 secret numbers of mill 7 are {}."
    assert canary.code == ("4", "7", "1", "3")
    assert Canary.of("磨坊的密码是4 7 1 3。").code == ("4", "7", "1", "3")
    with pytest.raises(ValueError, match="holds 2 codes, 4 7 and 1 3; give a sentence with one"):
        Canary.of("The numbers of the mill are 4 7, and 1 3.")
    with pytest.raises(ValueError, match="no digits that stand alone"):
        Canary.of("The mill has 12 steps, and mill2 has none.")


def test_every_candidate_is_the_text_with_its_code(tokenizer):
    canary = Canary("The secret number of the mill is {}.", ("7", "1", "7"), tuple("0179"))
    rows, start = canary.rows(tokenizer)
    assert rows.shape[0] == canary.size == 64
    assert tokenizer.decode(rows[canary.place].tolist()) == canary.text()[:-1]
    assert tokenizer.decode(rows[0].tolist()) == "The secret number of the mill is 0 0 0"
    assert tokenizer.decode(rows[-1].tolist()) == "The secret number of the mill is 9 9 9"
    assert len(np.unique(rows, axis=0)) == 64
    assert tokenizer.decode(rows[0, :start].tolist()).rstrip() == "The secret number of the mill is"


def test_scores_are_those_of_each_candidate_alone(model, tokenizer):
    canary = Canary("The mill is {}.", ("3", "1", "4"), tuple("01234"))
    rows, start = canary.rows(tokenizer)
    scores = candidate_scores(model, rows, start)
    with torch.no_grad():
        log_p = model(torch.from_numpy(rows)).log_softmax(-1)
    for i in (0, 17, canary.place, 124):
        by_hand = sum(log_p[i, t - 1, rows[i, t]].item() for t in range(start, rows.shape[1]))
        assert scores[i] == pytest.approx(by_hand, rel=1e-9)
    assert exposure(scores, canary.place) == pytest.approx(reference.exposure(scores, canary.place))


def test_exposure_counts_how_much_shorter_the_search_is():
    scores = np.log(np.arange(1, 1025) / 1e6)
    assert exposure(scores, 1023) == 10
    assert exposure(scores, 1022) == 9
    assert exposure(scores, 0) == 0
    assert [rank(scores, place) for place in (1023, 1000, 0)] == [1, 24, 1024]
    assert exposure(np.zeros(16), 3) == 0  # all alike: nothing is given away
    rng = np.random.default_rng(0)
    chance = [exposure(rng.normal(size=1000), 7) for _ in range(2000)]
    assert np.mean(chance) == pytest.approx(1 / math.log(2), abs=0.12)


@pytest.mark.parametrize(
    ("scores", "place", "words"),
    [
        ([-3.0, -2.0, -1.0], 5, "place=5 is not among 3 scores; give one from 0 to 2"),
        ([-3.0, -2.0, -1.0], -1, "place=-1 must be a whole number of at least 0"),
        ([], 0, "there are no scores; give one for each"),
        ([-3.0, math.nan, -1.0], 0, "1 of 3 scores are nan"),
    ],
)
def test_a_place_without_a_score_is_refused_in_words(scores, place, words):
    for call in (rank, exposure):
        with pytest.raises(ValueError, match=words):
            call(np.array(scores), place)


def test_a_sample_gives_about_the_same_exposure_and_goes_on_beyond_it():
    skewnorm = pytest.importorskip("scipy.stats").skewnorm
    rng = np.random.default_rng(0)
    for shape in (0.0, 2.0, -3.0):
        space = skewnorm.rvs(shape, loc=-9, scale=2, size=100_000, random_state=rng)
        for quantile in (0.5, 0.99, 0.9999):
            secret = float(np.quantile(space, quantile))
            exact = -math.log2((space >= secret).mean())
            found = estimated_exposure(secret, rng.choice(space, 3000))
            assert found == pytest.approx(exact, abs=0.1 + 0.25 * exact), (shape, quantile)
        far = float(skewnorm.isf(1e-9, shape, loc=-9, scale=2))
        assert 20 < estimated_exposure(far, rng.choice(space, 3000)) < 45
    with pytest.raises(ValueError, match="too few"):
        estimated_exposure(0.0, np.zeros(5))
    for score, sample in ((0.0, np.zeros(50)), (math.nan, np.arange(50.0)), (0.0, np.full(50, math.nan))):
        with pytest.raises(ValueError, match="finite scores, not all alike"):
            estimated_exposure(score, sample)


def test_what_cannot_be_a_canary_is_refused(tokenizer, model):
    for template, code in (("no place", ("1",)), ("{} and {}", ("1",)), ("It is {}", ()), ("It is {}", ("x",))):
        with pytest.raises(ValueError):
            Canary(template, code)
    with pytest.raises(ValueError, match="cuts"):  # two tokens for one symbol
        Canary("The mill is {}.", ("zq", "xy"), ("zq", "xy")).rows(tokenizer)
    with pytest.raises(ValueError, match="start=0"):
        candidate_scores(model, np.zeros((2, 3), int), 0)
