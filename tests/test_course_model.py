"""The shipped model is what its card says it is."""

import pytest
import torch

import llama_minimal
from llama_minimal import GREEDY, Sampling, generate
from llama_minimal.checkpoint import COURSE
from llama_minimal.config import read_json
from llama_minimal.course.card import checksums, held_out, interval, only_story, read_card, story_loss
from llama_minimal.data.valley import story
from llama_minimal.data.valley.checker import check, check_many

CARD = read_card()


@pytest.fixture(scope="module")
def course():
    return llama_minimal.load("course", dtype=torch.float32)


@pytest.fixture(scope="module")
def tales(course):
    """Stories that the model writes after 40 first sentences."""
    starts = [one.tell()[0].text for one in held_out(40)]
    done = generate(*course, starts, max_new_tokens=380, sampling=Sampling(temperature=0.8), seed=7)
    return [only_story(start + one.text) for start, one in zip(starts, done, strict=True)]


def test_the_files_are_those_of_the_card():
    assert checksums() == CARD["sha256"]


def test_it_is_small_and_of_the_promised_shape(course):
    model, tokenizer = course
    config = model.config
    assert sum(file.stat().st_size for file in COURSE.iterdir()) <= 11_000_000
    assert config == llama_minimal.preset("course")
    assert config.n_kv_heads == config.n_heads == 4
    assert config.max_seq_len == 512
    assert tokenizer.vocab_size == config.vocab_size == 2048
    assert sum(p.numel() for p in model.parameters()) == CARD["parameters"]


def test_it_is_stored_in_bfloat16():
    model, _ = llama_minimal.load("course")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_transformers_computes_the_same(course):
    transformers = pytest.importorskip("transformers")
    model, tokenizer = course
    twin = transformers.AutoModelForCausalLM.from_pretrained(COURSE, dtype=torch.float32).eval()
    text = story(5).text()
    ids = torch.tensor([tokenizer.encode(text, bos=True)])
    with torch.no_grad():
        torch.testing.assert_close(model(ids), twin(ids).logits, rtol=1e-4, atol=1e-4)
    assert read_json(COURSE / "tokenizer.json")["pre_tokenizer"]["type"] == "ByteLevel"
    assert transformers.AutoTokenizer.from_pretrained(COURSE)(text)["input_ids"] == ids[0].tolist()


def test_it_reads_held_out_stories_as_well_as_its_card_says(course):
    """The card's figure is over more stories: here is a sample of them, within its error."""
    losses = torch.tensor([story_loss(*course, [one.text()])["loss"] for one in held_out(60)])
    error = (losses.std() / len(losses) ** 0.5).item()
    assert abs(losses.mean().item() - CARD["measured"]["course"]["loss"]) < 4 * error + 0.01
    assert error < 0.05


def test_it_beats_counting():
    measured = CARD["measured"]
    models = [measured[name] for name in ("course", "5-gram", "trigram", "bigram", "unigram")]
    assert models == sorted(models, key=lambda row: row["bits_per_byte"])
    assert all(measured["course"]["checker"]["grammatical"] > row["checker"]["grammatical"] for row in models[1:])


def test_most_of_its_stories_hold_together():
    """What it was trained for, on 1,000 openings; the first course model: 0.160, 24 % and 72 % of the names."""
    course = CARD["measured"]["course"]
    assert course["stories"] == 1000
    assert course["grammatical_95"][0] >= 0.65
    assert course["checker"]["names"] >= 0.85
    assert course["bits_per_byte"] <= 0.155


@pytest.mark.parametrize(("share", "n"), [(0.0, 20), (0.3, 40), (0.5, 1000), (1.0, 5)])
def test_the_interval_holds_the_shares_that_a_test_would_not_refuse(share, n):
    """Wilson's bounds are where the observed share lies 1.96 standard errors away, at the bound's own error."""
    for bound in interval(share, n):
        assert abs(bound - share) == pytest.approx(1.96 * (bound * (1 - bound) / n) ** 0.5, abs=1e-9)


def test_it_writes_as_well_as_its_card_says(tales):
    claimed, n = CARD["measured"]["course"]["checker"], len(tales)
    for name, share in check_many(tales).items():
        error = (claimed[name] * (1 - claimed[name]) * (1 / n + 1 / CARD["measured"]["course"]["stories"])) ** 0.5
        assert abs(share - claimed[name]) < 4 * error + 0.05, name


def test_the_checker_is_not_blind_to_it(tales):
    """A story with two names exchanged everywhere but in its beginning is caught."""
    good = [text for text in tales if check(text).grammatical]
    assert good
    swapped = [half[: len(half) // 2] + half[len(half) // 2 :].replace(" he ", " she ") for half in good]
    changed = [text for text, before in zip(swapped, good, strict=True) if text != before]
    assert sum(check(text).grammatical for text in changed) <= len(changed) / 2


def test_samples_differ_and_repeat_with_the_seed(course):
    first, again, other = (
        generate(*course, ["Once upon a time"], max_new_tokens=40, sampling=Sampling(temperature=0.8), seed=seed)[
            0
        ].text
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_it_ends_its_stories(course):
    done = generate(*course, [one.tell()[0].text for one in held_out(8)], max_new_tokens=450, sampling=GREEDY)
    assert {one.finish_reason for one in done} == {"stop"}


def test_its_tokenizer_covers_chinese(course):
    _, tokenizer = course
    text = story(3).text("chinese")
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert len(ids) < 2 * len(text)
