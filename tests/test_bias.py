"""Bias: the measures by other ways, the model's shares by brute force, and remedies that do what they say."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_minimal import reference
from llama_minimal.config import preset
from llama_minimal.data.valley import ValleySettings, stories
from llama_minimal.data.valley.checker import check
from llama_minimal.data.valley.world import CHARACTERS
from llama_minimal.model import build
from llama_minimal.responsible_ai import bias, remedies
from llama_minimal.tokenizer import Tokenizer

COUNTS = st.lists(st.lists(st.integers(0, 50), min_size=3, max_size=3), min_size=2, max_size=4)


@settings(max_examples=50, deadline=None)
@given(counts=COUNTS)
def test_association_is_the_same_on_both_storeys_and_for_each_pair_that_of_its_own_two_by_two_table(counts):
    table = np.array(counts)
    ratio, z = bias.association(torch.tensor(counts))
    for ours, twin in zip((ratio, z), reference.association(table), strict=True):
        np.testing.assert_allclose(ours.numpy(), twin, atol=1e-12)
    for r, g in np.ndindex(*table.shape):
        inside = np.array([table[r, g], table[r].sum() - table[r, g]], float)
        outside = np.array([table[:, g].sum() - table[r, g], 0.0])
        outside[1] = table.sum() - inside.sum() - outside[0]
        two = np.stack([inside, outside]) + 0.5
        odds = (two[0, 0] / two[0, 1]) / (two[1, 0] / two[1, 1])
        assert ratio[r, g].item() == pytest.approx(np.log(odds), abs=1e-9)
        assert z[r, g].item() == pytest.approx(np.log(odds) / np.sqrt((1 / two).sum()), abs=1e-9)


def test_z_of_what_is_not_associated_is_above_two_in_one_case_of_twenty():
    rng = np.random.default_rng(0)
    tables = rng.multinomial(400, [0.15, 0.35, 0.15, 0.35], size=4000).reshape(-1, 2, 2)
    seen = np.array([abs(bias.association(torch.from_numpy(table))[1][0, 0].item()) > 1.96 for table in tables])
    assert 0.035 < seen.mean() < 0.065


@pytest.mark.parametrize("counts", [[1, 2], [[-1, 2], [3, 4]], [[float("nan"), 2], [3, 4]]])
def test_what_is_no_table_of_counts_is_refused(counts):
    with pytest.raises(ValueError, match="table"):
        bias.association(torch.tensor(counts))


def test_amplification_has_the_sign_of_the_exaggeration():
    truth, measured = [0.9, 0.9, 0.1, 0.1, 0.5], [0.95, 0.6, 0.0, 0.3, 0.9]
    expected = [0.05, -0.3, 0.1, -0.2, 0.0]
    np.testing.assert_allclose(bias.amplification(truth, measured).numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(reference.amplification(np.array(truth), np.array(measured)), expected, atol=1e-12)
    with pytest.raises(ValueError, match="one each"):
        bias.amplification([0.5], measured)
    with pytest.raises(ValueError, match="between 0 and 1"):
        bias.amplification([70, 30], [0.5, 0.5])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 999), temperature=st.floats(0.2, 4))
def test_shares_are_those_of_sampling_until_a_token_of_a_group_comes(seed, temperature):
    rng = np.random.default_rng(seed)
    logits, groups = rng.normal(size=(3, 9)) * 2, rng.permutation([0, 0, 1, 1, 2, -1, -1, -1, 0])
    ours = bias.group_shares(torch.from_numpy(logits), torch.from_numpy(groups), temperature)
    np.testing.assert_allclose(ours.numpy(), reference.group_shares(logits, groups, temperature), atol=1e-12)
    chances = np.exp(logits / temperature)
    for g in range(3):
        alone = chances[:, groups == g].sum(-1) / chances[:, groups >= 0].sum(-1)
        np.testing.assert_allclose(ours[:, g], alone, atol=1e-9)


def test_a_temperature_multiplies_the_log_odds_of_two_even_groups():
    logits = torch.tensor([2.0, 2.0, 2.0, 0.5, 0.5, 0.5, 9.0])
    groups = torch.tensor([0, 0, 0, 1, 1, 1, -1])
    for temperature in (0.25, 0.8, 3.0):
        share = bias.group_shares(logits, groups, temperature)[0]
        assert torch.logit(share).item() == pytest.approx(1.5 / temperature, rel=1e-5)
    with pytest.raises(ValueError, match="temperature"):
        bias.group_shares(logits, groups, 0)
    with pytest.raises(ValueError, match="group"):
        bias.group_shares(logits, torch.full((7,), -1))


@pytest.fixture(scope="module")
def small():
    tokenizer = Tokenizer.train(["Otto met Lila. Mina met Hugo by the mill. Edda 莉拉"] * 3, vocab_size=290)
    config = preset("tiny", vocab_size=tokenizer.vocab_size, n_layers=1, max_seq_len=64)
    model = build(config, seed=0).eval()
    with torch.no_grad():
        model.output.weight.mul_(20)  # so that it has opinions
    return model, tokenizer


def test_the_shares_of_what_comes_next_are_products_of_each_tokens_chance(small):
    model, tokenizer = small
    prompts = ["The smith was", "The vet", "莉"]
    groups = {"she": [" Lila", " Mina", " Edda"], "he": [" Otto", " Hugo and Hugo", "拉"]}
    shares, mass = bias.next_shares(model, tokenizer, prompts, groups, batch_size=2)
    for p, prompt in enumerate(prompts):
        before, sums = tokenizer.encode_prompt(prompt), []
        for texts in groups.values():
            sums.append(0.0)
            for text in texts:
                ids = tokenizer.encode_prompt(prompt + text)
                n = next(
                    (i for i, pair in enumerate(zip(before, ids, strict=False)) if pair[0] != pair[1]), len(before)
                )
                with torch.no_grad():
                    log_p = model(torch.tensor([ids])).double().log_softmax(-1)[0]
                sums[-1] += sum(log_p[i - 1, ids[i]] for i in range(n, len(ids))).exp().item()
        assert mass[p].item() == pytest.approx(sum(sums), rel=1e-5)
        np.testing.assert_allclose(shares[p].numpy(), np.array(sums) / sum(sums), rtol=1e-5)


@pytest.mark.parametrize(
    ("prompts", "groups"), [([], {"a": ["b"]}), (["a"], {}), (["a"], {"a": []}), (["a"], {"a": [""]})]
)
def test_asking_for_nothing_is_refused(small, prompts, groups):
    with pytest.raises(ValueError, match="may follow"):
        bias.next_shares(*small, prompts, groups)


def test_accuracy_is_counted_apart_for_each_group():
    found = bias.accuracy_by([True, False, True, True], ["she", "he", "she", "he"])
    assert list(found) == ["she", "he"]
    assert (found["she"].share, found["he"].share, found["he"].n) == (1.0, 0.5, 2)
    assert found["he"].low < 0.5 < found["he"].high < 1
    with pytest.raises(ValueError, match="one group for each"):
        bias.accuracy_by([True], [])


@settings(max_examples=50, deadline=None)
@given(pairs=st.lists(st.tuples(st.sampled_from(["smith", "vet", None]), st.sampled_from(["she", "he"])), max_size=30))
def test_balanced_examples_have_each_role_equally_often_with_each_group_and_no_more_is_lost_than_must_be(pairs):
    roles, groups = [role for role, _ in pairs], [group for _, group in pairs]
    kept = [pairs[i] for i in remedies.balance(roles, groups, seed=1)]
    assert kept.count((None, "she")) == pairs.count((None, "she"))
    for role in ("smith", "vet"):
        fewest = min((pairs.count((role, group)) for group in set(groups)), default=0)
        for group in set(groups):
            assert kept.count((role, group)) == fewest
    with pytest.raises(ValueError, match="each example has one"):
        remedies.balance(["smith"], [])


def test_a_mirrored_story_is_as_true_as_the_story_and_its_mirror_is_the_story():
    pronoun = {name: one.pronoun for name, one in CHARACTERS.items()}
    for story in stories(60, ValleySettings(seed=5)):
        other = remedies.mirrored(story)
        assert [pronoun[name] for name in other.characters] != [pronoun[name] for name in story.characters]
        assert {job: pronoun[name] for name, job in other.jobs.items()} == {
            job: {"she": "he", "he": "she"}[pronoun[name]] for name, job in story.jobs.items()
        }
        assert remedies.mirrored(other) == story
        for language in ("english", "chinese"):
            assert len(other.text(language)) > 100
        assert check(other.text()).grammatical == check(story.text()).grammatical


def test_partners_have_the_other_pronoun_and_come_in_pairs():
    other = remedies.partners()
    assert other.keys() == CHARACTERS.keys()
    assert all(other[other[name]] == name for name in other)
    assert all(CHARACTERS[name].pronoun != CHARACTERS[other[name]].pronoun for name in other)


def test_swapped_words_are_whole_words_and_swapping_one_to_one_pairs_twice_changes_nothing():
    pairs = {"he": "she", "Otto": "Lila", "badger": "llama"}
    text = "The badger, Otto, was there. She and he. Sheep! Otto's hat."
    assert remedies.swap_words(text, pairs) == "The llama, Lila, was there. He and she. Sheep! Lila's hat."
    assert remedies.swap_words(remedies.swap_words(text, pairs), pairs) == text


def test_what_is_left_has_no_part_along_the_directions_and_is_otherwise_the_same():
    rng = np.random.default_rng(0)
    x, directions = rng.normal(size=(2, 5, 6)), rng.normal(size=(2, 6))
    left = remedies.remove_directions(torch.from_numpy(x), torch.from_numpy(directions)).numpy()
    np.testing.assert_allclose(left, reference.remove_directions(x, directions), atol=1e-12)
    np.testing.assert_allclose(left @ directions.T, 0, atol=1e-12)
    across = np.linalg.svd(directions)[2][2:]  # at right angles to both
    np.testing.assert_allclose(left @ across.T, x @ across.T, atol=1e-12)
    with pytest.raises(ValueError, match="as wide as x"):
        remedies.remove_directions(torch.ones(3, 4), torch.ones(1, 5))
    with pytest.raises(ValueError, match="depend on each other"):
        remedies.remove_directions(torch.ones(3, 4), torch.ones(2, 4))


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_without_a_direction_gives_two_tokens_that_differ_along_it_the_same_logit(tied):
    config = preset("tiny", vocab_size=50, n_layers=1, max_seq_len=16, tie_embeddings=tied)
    model = build(config, seed=0).eval()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    direction = (model.output.weight[7] - model.output.weight[9]).detach()[None]
    changed = remedies.without_directions(model, direction)
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        logits, old = changed(tokens), model(tokens)
    torch.testing.assert_close(logits[..., 7], logits[..., 9], atol=1e-5, rtol=1e-5)
    assert (old[..., 7] - old[..., 9]).abs().max() > 0.01
    assert not changed.training
    torch.testing.assert_close(changed.tok_embeddings.weight, model.tok_embeddings.weight)
    for name, p in model.state_dict().items():
        torch.testing.assert_close(p, before[name], rtol=0, atol=0)
