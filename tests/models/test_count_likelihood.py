import count_truth
import numpy as np
import pytest
import torch
from scipy import stats

from spam.models.count_likelihood import count_cdf, count_interval, count_log_prob, zinb_log_prob_sum

# The extremes that the package promises; some counts equal a mean exactly, most do not.
X = np.array([0, 1, 2, 3, 7, 8, 9, 31, 100, 1000, 9999, 100_000])
LOG_MU = np.log(np.logspace(-8, 6, 29))
LOG_THETA = np.log(np.logspace(-4, 8, 25))


def grid(dtype):
    x = torch.as_tensor(X, dtype=dtype)[:, None, None]
    shape = (len(X), len(LOG_MU), len(LOG_THETA))
    log_mu = torch.as_tensor(LOG_MU, dtype=dtype)[None, :, None].expand(shape).clone().requires_grad_()
    log_theta = torch.as_tensor(LOG_THETA, dtype=dtype)[None, None, :].expand(shape).clone().requires_grad_()
    return x, log_mu, log_theta


def truth(dtype):
    # The parameters as the number format holds them: their rounding is not the likelihood's fault.
    return count_truth.nb_log_prob(X, LOG_MU.astype(dtype), LOG_THETA.astype(dtype)).astype(np.float64)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-6)])
def test_nb_is_exact_on_the_whole_grid_of_extremes(dtype, tolerance):
    x, log_mu, log_theta = grid(getattr(torch, dtype.__name__))
    got = count_log_prob(x, log_mu=log_mu, log_theta=log_theta).detach()
    assert got.dtype == getattr(torch, dtype.__name__)
    np.testing.assert_allclose(got.numpy(), truth(dtype), rtol=tolerance, atol=tolerance)


def test_nb_and_poisson_equal_scipy():
    # scipy takes p = theta / (theta + mu), whose 1 - p rounds where mu << theta.
    mu, theta = np.logspace(-4, 6, 11)[None, :, None], np.logspace(-4, 3, 8)[None, None, :]
    parameters = {"log_mu": torch.as_tensor(np.log(mu)), "log_theta": torch.as_tensor(np.log(theta))}
    got = count_log_prob(torch.as_tensor(X)[:, None, None], **parameters)
    expected = stats.nbinom.logpmf(X[:, None, None], theta, theta / (theta + mu))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-8, atol=1e-8)
    got = count_log_prob(torch.as_tensor(X)[:, None], log_mu=torch.as_tensor(LOG_MU)[None])
    np.testing.assert_allclose(
        got.numpy(), stats.poisson.logpmf(X[:, None], np.exp(LOG_MU)), rtol=1e-9, atol=1e-8
    )
    got = count_log_prob(torch.as_tensor(X)[:, None], log_mu=torch.as_tensor(LOG_MU).float()[None])
    expected = count_truth.poisson_log_prob(X, LOG_MU.astype(np.float32)).astype(np.float64)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("zi_logit", [-100.0, -3.0, 0.0, 2.0, 100.0])
def test_zinb_is_the_mixture_of_a_zero_and_a_negative_binomial(zi_logit):
    x, log_mu, log_theta = grid(torch.float32)
    logits = torch.full_like(log_mu, zi_logit).requires_grad_()
    got = count_log_prob(x, log_mu=log_mu, log_theta=log_theta, zi_logits=logits)
    log_pi, log_rest = -np.logaddexp(0, -zi_logit), -np.logaddexp(0, zi_logit)
    expected = truth(np.float32) + log_rest
    expected[X == 0] = np.logaddexp(expected[X == 0], log_pi)
    np.testing.assert_allclose(got.detach().numpy(), expected, rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad(got.sum(), (log_mu, log_theta, logits))
    assert all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize(("dtype", "h", "tolerance"), [(np.float32, 1e-3, 1e-3), (np.float64, 1e-4, 1e-5)])
def test_gradients_are_right_on_the_whole_grid_of_extremes(dtype, h, tolerance):
    x, log_mu, log_theta = grid(getattr(torch, dtype.__name__))
    count_log_prob(x, log_mu=log_mu, log_theta=log_theta).sum().backward()
    # Five-point differences of the truth, both ends of theta included; the truth is slow.
    mu, theta = LOG_MU.astype(dtype).astype(float), LOG_THETA[::3].astype(dtype).astype(float)
    for parameter, (d_mu, d_theta) in ((log_mu, (1, 0)), (log_theta, (0, 1))):
        steps = {
            n: count_truth.nb_log_prob(X, mu + n * h * d_mu, theta + n * h * d_theta) for n in (-2, -1, 1, 2)
        }
        expected = (8 * (steps[1] - steps[-1]) - (steps[2] - steps[-2])) / (12 * h)
        np.testing.assert_allclose(
            parameter.grad[:, :, ::3].numpy(), expected.astype(float), rtol=tolerance, atol=tolerance
        )


def test_gradients_of_broadcast_parameters_are_summed():
    x = torch.tensor([[0.0, 3.0, 2.0], [5.0, 0.0, 1.0]], dtype=torch.float64)
    log_mu = torch.tensor([[0.1], [0.7]], dtype=torch.float64, requires_grad=True)
    log_theta = torch.tensor([-0.3, 0.0, 1.1], dtype=torch.float64, requires_grad=True)
    logits = torch.tensor([[[0.2]], [[-1.0]]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: count_log_prob(x, log_mu=m), (log_mu,))
    assert torch.autograd.gradcheck(
        lambda m, t, z: count_log_prob(x, log_mu=m, log_theta=t, zi_logits=z), (log_mu, log_theta, logits)
    )


def test_probabilities_sum_to_1_and_give_mean_and_variance():
    x = torch.arange(2003, dtype=torch.float64)  # the tail beyond is below 1e-15
    for mu, theta, pi in ((0.01, 0.3, 0.9), (2.3, 0.7, 0.2), (41.0, 1000.0, 0.05)):
        log_mu, log_theta = torch.tensor(mu).double().log(), torch.tensor(theta).double().log()
        p = count_log_prob(
            x, log_mu=log_mu, log_theta=log_theta, zi_logits=torch.tensor(pi).double().logit()
        ).exp()
        mean = (1 - pi) * mu
        assert float(p.sum()) == pytest.approx(1.0, abs=1e-7)
        assert float((p * x).sum()) == pytest.approx(mean, rel=1e-6)
        variance = mean * (1 + mu * (pi + 1 / theta))
        assert float((p * (x - mean) ** 2).sum()) == pytest.approx(variance, rel=1e-6)


def test_half_precision_is_raised_and_an_empty_batch_is_fine():
    log_mu = torch.tensor([0.5, 2.0], dtype=torch.bfloat16)
    got = count_log_prob(torch.tensor([3, 1]), log_mu=log_mu, log_theta=log_mu)
    expected = count_log_prob(torch.tensor([3, 1]), log_mu=log_mu.float(), log_theta=log_mu.float())
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    none = torch.zeros(0, 5, dtype=torch.int32)
    assert count_log_prob(none, log_mu=torch.zeros(0, 5), log_theta=torch.zeros(5)).shape == (0, 5)


MU = np.array([0.003, 0.4, 1.0, 5.7, 23.0, 131.0])
THETA = np.array([0.05, 0.9, 4.0, 1e6])
PI = np.array([0.0, 0.1, 0.5, 0.97])
TABLE = np.arange(10_007)  # the widest of these distributions reaches 0.995 at about 4000


@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.99])
def test_interval_and_cdf_are_those_of_the_tabulated_distribution(coverage):
    mu, theta, pi = (v.ravel() for v in np.meshgrid(MU, THETA, PI, indexing="ij"))
    nb = [stats.nbinom.cdf(TABLE, t, t / (t + m)) for m, t in zip(mu, theta, strict=True)]
    poisson = [stats.poisson.cdf(TABLE, m) for m in MU]
    cases = (
        ("zinb", mu, theta, pi, [p + (1 - p) * table for p, table in zip(pi, nb, strict=True)]),
        ("nb", mu, theta, None, nb),
        ("poisson", MU, None, None, poisson),
    )
    for likelihood, means, dispersions, inflation, tables in cases:
        ends = count_interval(likelihood, means, dispersions, inflation, coverage)
        for end, level in zip(ends, ((1 - coverage) / 2, (1 + coverage) / 2), strict=True):
            np.testing.assert_array_equal(end, [count_truth.smallest_count(level, table) for table in tables])
        found = count_cdf(likelihood, np.full(len(means), 3.0), means, dispersions, inflation)
        np.testing.assert_allclose(found, [table[3] for table in tables], rtol=1e-12)
        below = count_cdf(likelihood, np.full(len(means), -1.0), means, dispersions, inflation)
        np.testing.assert_array_equal(below, 0.0)


def test_parameters_of_intervals_broadcast_and_borders_give_zero():
    mu, theta, pi = MU.reshape(2, 3), np.array([0.3, 2.0, 11.0]), np.array([[0.2], [0.6]])
    found = count_interval("zinb", mu, theta, pi, 0.8)
    full = count_interval("zinb", mu, *(np.broadcast_to(v, mu.shape) for v in (theta, pi)), 0.8)
    np.testing.assert_array_equal(found, full)
    for m, p in ((5.0, 1.0), (0.0, 0.0), (0.0, 1.0)):
        np.testing.assert_array_equal(
            count_interval("zinb", np.array([m]), np.array([2.0]), np.array([p]), 0.9), [[0.0], [0.0]]
        )
    assert count_interval("poisson", np.zeros((0, 3)), None, None, 0.9)[0].shape == (0, 3)
    assert np.isnan(count_interval("nb", np.array([np.nan]), np.array([2.0]), None, 0.9)).all()


@pytest.mark.parametrize(("likelihood", "ignored"), [("poisson", (0.1, 0.3)), ("nb", (None, 0.3))])
def test_parameters_of_other_families_are_ignored(likelihood, ignored):
    mu = np.array([0.2, 1.0, 7.0])
    theta, pi = (None if x is None else np.full(3, x) for x in ignored)
    theta = np.full(3, 2.0) if likelihood == "nb" else theta
    own = None if likelihood == "poisson" else theta
    for found, alone in (
        (count_interval(likelihood, mu, theta, pi, 0.9), count_interval(likelihood, mu, own, None, 0.9)),
        (
            count_cdf(likelihood, np.full(3, 2.0), mu, theta, pi),
            count_cdf(likelihood, np.full(3, 2.0), mu, own, None),
        ),
    ):
        np.testing.assert_array_equal(found, alone)


@pytest.mark.parametrize("likelihood", ["zinb", "nb", "poisson"])
def test_cumulative_probabilities_are_sums_of_probabilities(likelihood):
    mu, theta, pi = np.array([0.3, 2.0, 9.0]), np.array([0.4, 1.0, 5.0]), np.array([0.05, 0.3, 0.9])
    theta = None if likelihood == "poisson" else theta
    pi = pi if likelihood == "zinb" else None
    total = np.zeros(3)
    np.testing.assert_array_equal(count_cdf(likelihood, np.full(3, -1.0), mu, theta, pi), total)
    for count in range(5):
        log_prob = count_log_prob(
            torch.full((3,), count),
            log_mu=torch.from_numpy(np.log(mu)),
            log_theta=None if theta is None else torch.from_numpy(np.log(theta)),
            zi_logits=None if pi is None else torch.from_numpy(np.log(pi / (1 - pi))),
        )
        total = total + log_prob.exp().numpy()
        np.testing.assert_allclose(
            count_cdf(likelihood, np.full(3, float(count)), mu, theta, pi), total, rtol=1e-9
        )


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_zinb_of_sparse_counts_equals_the_sum_of_all_terms(scale):
    """Value and gradients against autograd of the dense form in float64."""
    rng = np.random.default_rng(0)
    counts = rng.negative_binomial(0.3, 0.1, (13, 17))
    counts[3, 5] = 60_000
    assert 0.4 < (counts == 0).mean() < 0.8
    place = np.flatnonzero(counts)
    drawn = (rng.normal(0, scale, shape).astype(np.float32) for shape in ((13, 17), (17,), (13, 17)))
    names = ("log_mu", "log_theta", "zi_logits")
    inputs = {name: torch.from_numpy(a).requires_grad_() for name, a in zip(names, drawn, strict=True)}
    total = zinb_log_prob_sum(torch.from_numpy(place), torch.from_numpy(counts.ravel()[place]), **inputs)
    found = torch.autograd.grad(3.0 * total, tuple(inputs.values()))
    exact = {name: a.detach().double().requires_grad_() for name, a in inputs.items()}
    terms = count_log_prob(
        torch.from_numpy(counts),
        log_mu=exact["log_mu"],
        log_theta=exact["log_theta"],
        zi_logits=exact["zi_logits"],
    )
    # The count of 60,000 multiplies the rounding of a logarithm.
    np.testing.assert_allclose(float(total.detach()), float(terms.sum().detach()), rtol=3e-6)
    for name, one, two in zip(
        names, found, torch.autograd.grad(3.0 * terms.sum(), tuple(exact.values())), strict=True
    ):
        np.testing.assert_allclose(one.numpy(), two.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)
