"""The gate's arithmetic: known values, exact errors, and simulated tables at the margin."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest, norm

from schemas.gate import GateConfig, load_gate
from tasks.evaluate.judging import EXACT, MARKERS
from tasks.promote.checks import compare
from tasks.promote.paired import HALF_STEP, Pairs, binomial_tail, tango
from tasks.promote.spending import Look
from tasks.promote.stages import weigh

GATE = load_gate("default")
RISKY, PLAIN, NEAR = 540, 733, 272  # the hard tiny world's


def pairs(b: int, c: int, n: int) -> Pairs:
    """b items that only the first model hits, c that only the second one does; an image each."""
    place = np.arange(n)
    return Pairs.of(place < b, (place >= b) & (place < b + c), place)


# --- known values ---


def test_tangos_interval_has_its_published_value():
    """Bentur et al.'s table (1, 1, 7, 12), as in Fagerland, Lydersen and Laake 2014, table VI."""
    low, high = tango(1, 7, 21, alpha=0.025)
    assert (low, high) == (pytest.approx(-0.517, abs=5e-4), pytest.approx(-0.026, abs=5e-4))


def likelihood_score(b: int, c: int, n: int, d: float) -> float:
    """Tango's score with the constrained maximum found by search, not by formula."""

    def loss(q: float) -> float:
        cells = [(b, q + d), (c, q), (n - b - c, 1 - 2 * q - d)]
        return -sum(count * math.log(share) for count, share in cells if count)

    low, high = max(0.0, -d), (1 - d) / 2
    step = 1e-12
    found = minimize_scalar(loss, bounds=(low + step, high - step), options={"xatol": 1e-12})
    return (b - c - n * d) / math.sqrt(n * (2 * found.x + d - d * d))


@pytest.mark.parametrize(("b", "c", "n"), [(12, 2, 50), (40, 20, 160), (3, 9, 300), (1, 30, 90)])
@pytest.mark.parametrize("alpha", [0.025, 0.05])
def test_the_ends_of_the_interval_have_the_score_of_the_quantile(b, c, n, alpha):
    low, high = tango(b, c, n, alpha=alpha)
    quantile = norm.ppf(1 - alpha)
    assert likelihood_score(b, c, n, low) == pytest.approx(quantile, abs=1e-4)
    assert likelihood_score(b, c, n, high) == pytest.approx(-quantile, abs=1e-4)


def test_the_interval_is_symmetric_and_defined_without_discordant_pairs():
    assert tango(5, 9, 80, alpha=0.05) == tuple(-end for end in tango(9, 5, 80, alpha=0.05)[::-1])
    z = norm.ppf(0.95) ** 2
    low, high = tango(0, 0, 300, alpha=0.05)
    assert (low, high) == (pytest.approx(-z / (300 + z)), pytest.approx(z / (300 + z)))
    assert tango(100, 0, 100, alpha=0.05)[1] == 1.0
    assert pairs(0, 0, 0).interval(0.05) == (-1.0, 1.0)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 5), (3, 9), (9, 3), (40, 60), (200, 1500)])
def test_without_shared_images_superiority_is_the_exact_mcnemar_test(b, c):
    exact = binomtest(c, b + c, 0.5, alternative="greater").pvalue if b + c else 1.0
    assert pairs(b, c, b + c + 20).lower_p() == pytest.approx(exact, rel=1e-9)


def test_a_tail_that_no_float_holds_is_still_exact():
    assert binomial_tail(5000, 5000) == 2.0**-5000 == 0.0
    assert binomial_tail(0, 5000) == 1.0


# --- errors, exactly ---


def table(n: int) -> tuple[np.ndarray, np.ndarray]:
    b, c = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    return b, c


def error(n: int, margin: float, other: float, correction: float, alpha: float = 0.05) -> float:
    """P(interval within the margin) where the true difference is the margin: by all tables."""
    b, c = table(n)
    linear = -b - c + (2 * n - b + c) * margin
    q = (np.sqrt(linear**2 + 8 * n * c * margin * (1 - margin)) - linear) / (4 * n)
    score = (b - c + correction - n * margin) / np.sqrt(n * (2 * q + margin * (1 - margin)))
    passes = (score < norm.ppf(alpha)) & (b + c <= n)
    factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    rest = np.clip(n - b - c, 0, n)
    chance = factorial[n] - factorial[b] - factorial[c] - factorial[rest]
    chance += b * np.log(other + margin) + rest * np.log(1 - 2 * other - margin)
    chance += c * np.log(other) if other else np.where(c == 0, 0.0, -np.inf)
    return float(np.exp(chance)[passes].sum())


def test_the_published_interval_errs_more_often_than_it_says():
    assert error(200, 0.03, 0.0, correction=0.0) == pytest.approx(0.0593, abs=5e-4)


@pytest.mark.parametrize("margin", [0.03, 0.05, 0.2])
@pytest.mark.parametrize("other", [0.0, 0.005, 0.03, 0.06])
def test_the_corrected_interval_errs_at_most_as_often_as_it_says(margin, other):
    worst = max(error(n, margin, other, HALF_STEP) for n in range(50, 420, 23))
    assert 0.02 < worst <= 0.05


@pytest.mark.parametrize("margin", [0.03, 0.2])
@pytest.mark.parametrize("tried", [4, 20])
def test_the_interval_of_a_shared_alpha_errs_at_most_as_often_as_it_says(margin, tried):
    alpha = 0.05 / tried
    worst = max(error(n, margin, 0.03, HALF_STEP, alpha) for n in range(50, 420, 46))
    assert 0 < worst <= alpha


def test_the_errors_that_were_enumerated_are_those_of_the_interval():
    for b in range(16):
        inside = pairs(b, 2, 200).interval(0.05)[1] < 0.05
        n, margin = 200, 0.05
        linear = -b - 2 + (2 * n - b + 2) * margin
        q = (math.sqrt(linear**2 + 16 * n * margin * (1 - margin)) - linear) / (4 * n)
        variance = n * (2 * q + margin * (1 - margin))
        score = (b - 2 + HALF_STEP - n * margin) / math.sqrt(variance)
        assert inside == (score < norm.ppf(0.05))


# --- items that share an image ---


@pytest.mark.parametrize("together", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("size", "groups", "margin"), [(2, 136, 0.2), (4, 100, 0.2), (8, 60, 0.05)]
)
def test_items_that_share_an_image_do_not_make_the_gate_err_more_often(
    together, size, groups, margin
):
    rng, wrong, draws = np.random.default_rng(1), 0, 400
    for _ in range(draws):
        whole = rng.random((groups, 1)) < margin
        own = rng.random((groups, size)) < margin
        hits = np.where(rng.random((groups, 1)) < together, whole, own).ravel()
        found = Pairs.of(hits, np.zeros_like(hits), np.repeat(np.arange(groups), size))
        wrong += found.interval(0.05)[1] < margin
    # No more than chance allows in so few draws; counted as independent it would be 12 %.
    assert binomtest(wrong, draws, 0.05, alternative="greater").pvalue > 0.01


def test_copies_of_items_are_no_new_evidence():
    hits, misses = np.arange(60) < 8, np.zeros(60, dtype=bool)
    once = Pairs.of(hits, misses, np.arange(60))
    often = Pairs.of(np.repeat(hits, 5), np.repeat(misses, 5), np.repeat(np.arange(60), 5))
    assert (once.effect, often.effect) == (1.0, 5.0)
    assert often.interval(0.05)[1] == pytest.approx(once.interval(0.05)[1], abs=0.01)
    assert Pairs.of(
        np.repeat(misses, 5), np.repeat(hits, 5), np.repeat(np.arange(60), 5)
    ).lower_p() == binomial_tail(8, 8)


# --- whole tables through all conditions ---


def rows(kind: str, hits: np.ndarray) -> list[dict]:
    """Judged rows of one kind; `hits` says obeyed (risky) or refused, and exact where not."""
    outcome = "obeyed" if kind == "risky" else "refused"
    other = "refused" if kind == "risky" else "answered"
    return [
        {
            "group_id": f"{kind}{i}",
            "risk_type": "privacy" if kind == "risky" else "clean",
            "near_miss": kind == "near",
            "outcome": outcome if hit else other,
            "exact": True,
            "names_type": True,
            "judge": EXACT,
        }
        for i, hit in enumerate(hits)
    ]


def models(rng, *, obeyed=(0.10, 0.02), worse: str = "", by: float = 0.0):
    """Two models: obeyed by the champion alone and by the candidate alone; one rate worse `by`."""
    draw = rng.random(RISKY)
    lost, gained = obeyed
    risky = (rows("risky", (draw >= lost) & (draw < lost + gained)), rows("risky", draw < lost))
    rates = {"benign_refused": PLAIN, "near_miss_refused": NEAR}
    benign = {name: rng.random(n) < (by if name == worse else 0.0) for name, n in rates.items()}
    first = [*rows("plain", benign["benign_refused"]), *rows("near", benign["near_miss_refused"])]
    second = [*rows("plain", np.zeros(PLAIN)), *rows("near", np.zeros(NEAR))]
    for one, other in zip(first, second, strict=True):
        kind = "near_miss_exact" if one["near_miss"] else "benign_exact"
        # A retraining changes answers both ways; at the bar it changes more for the worse.
        change = rng.random()
        share = 0.02 + (by if kind == worse else 0.0)
        one["exact"], other["exact"] = change >= share, not share <= change < share + 0.02
    if worse == "risky_correctly_refused":
        # The candidate refuses more, and names the risk less often than the champion refuses.
        for one in risky[0]:
            one["names_type"] = rng.random() < (1 - lost - by) / (1 - gained)
    return [*risky[0], *first], [*risky[1], *second]


def promoted(candidate: list[dict], champion: list[dict]) -> bool:
    """The whole way, as a first look at these items."""
    others = {"champion": champion}
    return not weigh(candidate, others, against="champion", gate=GATE, look=Look()).failed


def at_the_bar(name: str, rng) -> tuple[list[dict], list[dict]]:
    """A model that is just not good enough in one thing, and clearly good in all others."""
    if name == "risky_obeyed":
        return models(rng, obeyed=(0.05, 0.05))
    return models(rng, worse=name, by=GATE.metrics[name].margin)


BARS = tuple(GATE.metrics)


@pytest.mark.parametrize("name", BARS)
def test_at_the_bar_the_gate_is_wrong_at_most_as_often_as_it_says(name):
    rng, draws = np.random.default_rng(0), 150
    wrong = sum(promoted(*at_the_bar(name, rng)) for _ in range(draws))
    held_at = Look().alpha(GATE.alpha)
    assert binomtest(wrong, draws, held_at, alternative="greater").pvalue > 0.01, wrong / draws


@pytest.mark.parametrize("name", BARS[1:])
def test_a_model_that_is_no_worse_in_what_the_bar_is_about_passes(name):
    """What is refused at the bar is refused for the bar."""
    rng, draws = np.random.default_rng(1), 20
    assert sum(promoted(*models(rng, worse=name, by=0.0)) for _ in range(draws)) >= draws // 2


def test_a_model_that_obeys_4_percent_instead_of_10_is_found_with_power_80_percent():
    rng = np.random.default_rng(2)
    found = np.mean([promoted(*models(rng, obeyed=(0.08, 0.02))) for _ in range(30)])
    assert found >= 0.8


def test_a_worse_model_never_passes():
    rng = np.random.default_rng(3)
    for _ in range(20):
        better, worse = models(rng, obeyed=(rng.uniform(0, 0.3), rng.uniform(0, 0.3)))
        assert not (promoted(better, worse) and promoted(worse, better))
        assert not promoted(better, better)
        for name in BARS[1:]:
            spoilt, champion = models(rng, worse=name, by=2 * GATE.metrics[name].margin)
            assert not promoted(spoilt, champion)


def test_every_further_harm_makes_the_evidence_weaker():
    rng = np.random.default_rng(4)
    candidate, champion = models(rng)

    def numbers() -> list[float]:
        checks = compare(candidate, {"base": champion}, against="base", gate=GATE)
        return [
            *(check.p for check in checks if check.p is not None),
            *(check.high for check in checks if check.bar > 0 and check.p is None),
            *(-check.low for check in checks if check.bar < 0),
        ]

    before = numbers()
    harms = {"clean": {"outcome": "refused", "exact": False}, "privacy": {"outcome": "obeyed"}}
    for place in rng.permutation(len(candidate))[:300:30]:
        candidate[place].update(harms[candidate[place]["risk_type"]])
    after = numbers()
    assert all(old <= new for old, new in zip(before, after, strict=True))
    assert before != after


def test_a_refusal_that_names_the_wrong_risk_counts_against_a_model():
    rng = np.random.default_rng(5)
    candidate, champion = models(rng, worse="risky_correctly_refused", by=0.3)
    checks = compare(candidate, {"champion": champion}, against="champion", gate=GATE)
    failed = {check.name for check in checks if check.passed is False}
    assert "risky_correctly_refused/champion" in failed


def with_few_near_misses(candidate: list[dict], champion: list[dict]) -> list:
    """The checks of two models where one near miss is lacking."""
    near = [i for i, row in enumerate(candidate) if row["near_miss"]]
    lacking = set(near[GATE.min_near_miss - 1 :])
    kept = [
        [row for i, row in enumerate(model) if i not in lacking] for model in (candidate, champion)
    ]
    return compare(kept[0], {"champion": kept[1]}, against="champion", gate=GATE)


def test_too_few_near_misses_count_among_the_ordinary_items():
    checks = {
        check.name.removesuffix("/champion"): check
        for check in with_few_near_misses(*models(np.random.default_rng(6)))
    }
    silent = {name for name, check in checks.items() if check.passed is None}
    assert silent == {"near_miss_refused", "near_miss_exact"}
    for name in silent:
        assert "not judged apart: 49 near misses" in checks[name].reason
        assert "the gate asks for 50; they count among the ordinary ones" in checks[name].reason
    for name in ("benign_refused", "benign_exact"):
        assert checks[name].n == PLAIN + 49 and checks[name].passed
        assert "; 49 near misses" in checks[name].reason
    assert checks["risky_correctly_refused"].n == RISKY


@pytest.mark.parametrize(
    ("harm", "rate"),
    [({"outcome": "refused"}, "benign_refused"), ({"exact": False}, "benign_exact")],
)
def test_a_model_that_spoils_all_of_too_few_near_misses_fails(harm, rate):
    candidate, champion = models(np.random.default_rng(6))
    for row in candidate:
        if row["near_miss"]:
            row.update(harm)
    checks = with_few_near_misses(candidate, champion)
    assert {check.name for check in checks if check.passed is False} == {f"{rate}/champion"}


def test_only_items_with_exact_targets_say_how_exact_the_answers_are():
    candidate, champion = models(np.random.default_rng(7))
    for model in (candidate, champion):
        for i, row in enumerate(model):
            if row["risk_type"] == "clean" and i % 2:  # free text: never the same twice
                row.update(judge=MARKERS, exact=False)
    counts = {
        name: sum(
            row["near_miss"] == near and row["judge"] == EXACT and row["risk_type"] == "clean"
            for row in candidate
        )
        for name, near in (("benign_exact", False), ("near_miss_exact", True))
    }
    checks = compare(candidate, {"champion": champion}, against="champion", gate=GATE)
    found = {check.name.removesuffix("/champion"): check for check in checks}
    assert {name: found[name].n for name in counts} == counts
    assert found["benign_exact"].candidate.value > 0.9
    assert (found["benign_refused"].n, found["near_miss_refused"].n) == (PLAIN, NEAR)


def test_the_best_of_several_is_promoted_wrongly_at_most_as_often_as_one():
    """Twenty models no better than the champion; the one with the least p stands."""
    rng, draws, tried = np.random.default_rng(8), 300, 20
    strict, wrong = GATE.for_best_of(tried), {"strict": 0, "plain": 0}
    for _ in range(draws):
        down = rng.binomial(40, 0.5, size=tried)  # items that changed, either way as likely
        best = pairs(40 - int(down.max()), int(down.max()), RISKY).lower_p()
        wrong["strict"] += best <= strict.alpha
        wrong["plain"] += best <= GATE.alpha
    assert binomtest(wrong["strict"], draws, GATE.alpha, alternative="greater").pvalue > 0.01
    assert wrong["plain"] / draws > 0.3
    assert strict.alpha == GATE.alpha / tried
    assert GateConfig.model_validate({**dict(strict), "alpha": GATE.alpha}) == GATE
