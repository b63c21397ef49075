"""For each decisive criterion of the ledger an SAE or a run that fails it: what nothing fails decides nothing."""

from functools import cache

import numpy as np
import pytest
import torch

from matryoshka_mixing import claims, metrics, theory
from matryoshka_mixing.chapters import basins, firing_rates, how_far, magnitude_skew, standard_sae_absorbs
from matryoshka_mixing.chapters.what_cures_it.measures import is_clean
from matryoshka_mixing.chapters.why_it_happens import completed
from matryoshka_mixing.claims import Claim
from matryoshka_mixing.features import family, without_hierarchy
from matryoshka_mixing.sae import SAE, SAEConfig

SEEDS = 64
EYE, PARENTS = torch.eye(3, dtype=torch.float64), [None, 0, 0]


@cache
def reading(kind):
    """What a hand-made SAE holds of the three-feature hierarchy, as one seed: "clean", "absorbed" or "mixed"."""
    states = family(0.3, 0.4).states()
    mixed = completed(theory.matryoshka_optimum(states, range(3), (1, 3), (1.0, 1.0)))
    saes = standard_sae_absorbs.by_hand(EYE) | {"mixed": SAE.stack([mixed])}
    return metrics.read(saes[kind], states, EYE, PARENTS)


def leaning(kind):
    """The first latent's smallest cosine with a child."""
    return reading(kind).decoder[:, 0, 1:].amin(-1)


def siblings(kind):
    """A child's largest cosine with a sibling."""
    return reading(kind).mixing.child_to_sibling.amax(-1)


def carried(kind):
    edges = reading(kind).edges
    return edges.mean(edges.carried)


def saving(path):
    """Share of the clean parent's loss that each step toward the children saves, on independent features."""
    walk = torch.tensor([[1.0, t, t] for t in (0, 0.1, 0.2, 0.3)], dtype=torch.float64)
    loss = theory.one_latent_loss(without_hierarchy(family(0.3, 0.4)).states(), walk, biases=True)
    return float(path(loss) / loss[0])


@cache
def order(descent):
    """By how much a child as loud as its parent is learned first, and the absorption of the loud case by hand."""
    setup = magnitude_skew.Setup(magnitude_skew.Parameters(n_seeds=SEEDS, n_steps=600))
    how = setup.law_schedules["gradient descent"] if descent else setup.beginning
    found = setup.fit([(setup.kinds["Matryoshka"], setup.cases["equal"])], "random", setup.seeds, how)[0]
    return magnitude_skew.order(found, setup.cases["equal"], how.snapshots)[0]


def absorbed_loud():
    """The loud case with one latent on the sum and one on the parent alone."""
    sae = SAE(
        torch.tensor([[0.2, 1.0], [1.0, -1.0]]).double(), torch.zeros(2).double(),
        torch.tensor([[0.2, 0.98], [1.0, 0.0]]).double(), torch.tensor([0.0, 0.0]).double(),
    )  # fmt: skip
    states = magnitude_skew.pair_states(0.3, 0.5, 2.0, 10.0)
    return metrics.read(sae, states, torch.eye(2, dtype=torch.float64), [None, 0]).absorption


def recoveries():
    """Loss and recovery of the clean and the absorbed SAE, with a penalty: the standard SAE's choice."""
    states, config = family(0.3, 0.4).states(), SAEConfig(3, (3,), l1=0.03)
    saes = standard_sae_absorbs.by_hand(EYE)
    loss = torch.cat([sae.loss(states.acts, states.probs, config) for sae in saes.values()])
    recovery = torch.cat([basins.recovery(reading(kind).decoder, reading(kind).live) for kind in saes])
    return float(recovery.max() - recovery[loss.argmin()])


def rates():
    """Mixing that depends on no probability: the same mixed SAE after every move."""
    same = dict.fromkeys(("default", "rarer family", "rarer child"), leaning("mixed"))
    return firing_rates.Moves({"random": same})


def factors():
    """A factor under which SAEs are clean."""
    mix = [reading("clean").decoder[:, 0, 1:].mean(), siblings("clean").mean(), torch.zeros(())]
    medians = np.array([[float(value) for value in mix]])
    effect = how_far.experiments.Effect(["any"], medians, medians)
    return how_far.experiments.effect_measures({"number of latents": effect}, 0.325)


def share_clean(kind):
    """1 if the SAE counts as clean in the chapter on remedies, else 0."""
    edges, mix = reading(kind).edges, reading(kind).mixing
    found = {
        "mixing": torch.cat([mix.parent_to_child, mix.child_to_sibling, mix.child_to_parent], -1).abs().amax(-1),
        "absorption": edges.mean(edges.partial), "silent": edges.mean(edges.silent),
        "unjudged": 1 - edges.judged.double().mean(-1), "missing": (reading(kind).latents < 0).sum(-1),
        "recovered95": (mix.own >= 0.95).double().mean(-1),
    }  # fmt: skip
    return is_clean(found)


def topk():
    return dict.fromkeys(
        ("child_cosine_near_truth", "topk_near_truth", "batchtopk_random", "topk_random", "least_over_k"),
        lambda: leaning("clean"),
    )


def reach():
    names = ("smallest_child_cosine", "share_of_factors_with_the_sign")
    return {name + end: lambda name=name + end: factors()[name] for name in names for end in ("", "_near_truth")}


FAILS = {
    "full-width-absorbs": {
        "absorption_rate": lambda: carried("clean"),
        "child_to_parent": lambda: standard_sae_absorbs.lean(reading("clean")),
    },
    "narrow-mixing": dict.fromkeys(("child_cosine", "child_cosine_near_truth"), lambda: leaning("clean")),
    "mse-reason": {
        "loss_saving": lambda: saving(lambda loss: (loss[0] - loss).amax()),
    },
    "matryoshka-mixing": {
        "child_cosine_near_truth": lambda: leaning("clean"),
        "sibling_cosine_near_truth": lambda: siblings("clean"),
    },
    "child-to-parent": {"child_to_parent": lambda: reading("clean").mixing.child_to_parent.amax(-1)},
    "unequal-children": {
        "sign_agreement": lambda: (reading("mixed").mixing.child_to_parent > 0).double().mean(),  # predicted: negative
        "positive_case": lambda: reading("mixed").mixing.child_to_parent.amin(-1),
    },
    "improves-on-standard": dict.fromkeys(
        ("absorption_gain", "absorption_gain_at_equal_penalty", "absorption_gain_at_equal_l0"),
        lambda: reading("absorbed").absorption - reading("absorbed").absorption,  # a Matryoshka SAE that absorbs too
    ),
    "not-sampling": {
        "child_cosine_all_prefixes": lambda: leaning("clean"),
        "sampling_gap": lambda: (leaning("mixed") - leaning("clean")).abs().mean(),
    },
    "magnitude-skew": dict.fromkeys(
        ("absorption_rate", "absorption_rate_slow", "standard_absorption_rate"), lambda: carried("clean")
    ),
    "loud-child-first": {"child_first": lambda: order(False), "child_first_descent": lambda: order(True)},
    "first-to-absorb": {"kept_though_not_first": absorbed_loud},
    "prefix-pull": {"child_cosine_without_the_terms_near_truth": lambda: leaning("mixed")},
    "terms-prevent-absorption": {
        "silent_without_the_terms": lambda: carried("clean"),
        "silent_with_the_terms": lambda: carried("absorbed"),
    },
    "sibling-undo": {
        "sibling_cosine_with_a_clean_parent_near_truth": lambda: siblings("mixed").abs(),
        "sibling_cosine_with_a_mixed_parent": lambda: siblings("clean"),
    },
    "topk-too": topk(),
    "less-at-low-probability": {
        "drop_with_a_rarer_family_sampled": lambda: rates().drop("random", "rarer family"),
        "drop_with_a_rarer_child_random": lambda: rates().drop("random", "rarer child"),
    },
    "lowest-loss-cleanest": dict.fromkeys(("recovery_gap", "shortfall_in_blocks_of_8"), recoveries),
    "beyond-the-toy": reach(),
    "parent-first-stays": dict.fromkeys(
        ("absorption_quiet", "absorption_loud"), lambda: reading("absorbed").absorption
    ),
    "log-of-losses": {
        "mixing_left": lambda: leaning("mixed") / leaning("mixed"),  # a log that changes nothing
        "absorption_rise": lambda: carried("clean") - carried("clean"),
    },
    "published-toys": {
        **dict.fromkeys(("hierarchical", "correlated", "anticorrelated"), lambda: leaning("clean")),
        "balance": lambda: 1 - 0.25,  # equal children that balance where both prefixes weigh alike
        "unbalanced": lambda: leaning("clean").abs(),
        "independent": lambda: leaning("mixed").abs(),
    },
    "no-published-remedy": dict.fromkeys(
        ("best_published_where_ours_solves", "best_published_near_truth"), lambda: share_clean("clean")
    ),
    "split-and-apart": {
        "clean_apart_twenty_features": lambda: share_clean("mixed"),
        "gain_over_ours": lambda: share_clean("clean") - share_clean("clean"),  # no better than ours
    },
    "decoder-from-full": dict.fromkeys(
        ("clean_on_the_page", "clean_four_children", "clean_twenty_features", "worst_toy_near_truth"),
        lambda: share_clean("mixed"),
    ),
    "mixing-in-real-activations": {
        "cosine_commoner": lambda: leaning("clean"),
        "theory_gap": lambda: (leaning("mixed") - leaning("clean")).abs(),
    },
    "absorption-in-real-activations": {"fewer_pairs": lambda: carried("absorbed") - carried("absorbed")},
    "diagnosis-in-real-activations": dict.fromkeys(("along", "leaning"), lambda: leaning("clean")),
}
"""By claim and metric: what is measured of an SAE or a run that is not as the criterion says; one seed for all."""


def test_every_decisive_criterion_has_an_sae_or_a_run_that_fails_it():
    decisive = {(i, c.metric) for i, claim in claims.load().items() for c in claim.criteria if c.role == "decisive"}
    assert decisive == {(i, metric) for i, metrics in FAILS.items() for metric in metrics}


@pytest.mark.parametrize(("claim_id", "metric"), [(i, metric) for i, some in FAILS.items() for metric in some])
def test_a_decisive_criterion_can_fail(claim_id, metric):
    criterion = next(c for c in claims.load()[claim_id].criteria if c.metric == metric)
    value = np.atleast_1d(np.asarray(FAILS[claim_id][metric](), dtype=float))
    measured = np.resize(value, max(SEEDS, len(value))) if criterion.by_seed else float(value[0])
    [outcome] = claims.judge(Claim("x", "X", "", "", criteria=(criterion,)), {metric: measured}).outcomes
    assert outcome.outcome == "failed", outcome.text()
