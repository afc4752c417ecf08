import count_truth
import numpy as np
import pytest
import torch
from scipy import stats

from spam.errors import ConfigError, SectionError
from spam.models.distributions import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from spam.models import build_distribution

# The extremes that the package promises; some counts equal a mean exactly, most do not.
X = np.array([0, 1, 2, 3, 7, 8, 9, 31, 100, 1000, 9999, 100_000])
LOG_MU = np.log(np.logspace(-8, 6, 29))
LOG_THETA = np.log(np.logspace(-4, 8, 25))


def _tensors(dtype, *, requires_grad=False):
    x = torch.as_tensor(X, dtype=dtype)[:, None, None]
    log_mu = torch.as_tensor(LOG_MU, dtype=dtype)[None, :, None]
    log_theta = torch.as_tensor(LOG_THETA, dtype=dtype)[None, None, :]
    shape = (len(X), len(LOG_MU), len(LOG_THETA))
    log_mu, log_theta = (v.expand(shape).clone().requires_grad_(requires_grad) for v in (log_mu, log_theta))
    return x, log_mu, log_theta


def _truth(dtype):
    # The parameters as the number format holds them: their rounding is not the likelihood's fault.
    return count_truth.nb_log_prob(X, LOG_MU.astype(dtype), LOG_THETA.astype(dtype)).astype(np.float64)


def test_nb_in_float32_is_exact_to_1e_5_on_the_whole_grid_of_extremes():
    x, log_mu, log_theta = _tensors(torch.float32)
    got = NegativeBinomial(log_mu=log_mu, log_theta=log_theta).log_prob(x)
    assert got.dtype == torch.float32
    # Measured: 6.4e-7 of 1 + |log p|; no point of the grid is off by more than 1e-5.
    np.testing.assert_allclose(got.numpy(), _truth(np.float32), rtol=1e-5, atol=1e-5)


def test_nb_in_float64_is_exact_to_11_digits():
    x, log_mu, log_theta = _tensors(torch.float64)
    got = NegativeBinomial(log_mu=log_mu, log_theta=log_theta).log_prob(x)
    np.testing.assert_allclose(
        got.numpy(), _truth(np.float64), rtol=1e-11, atol=1e-11
    )  # the truth's rounding


def test_nb_equals_scipy_where_scipy_keeps_its_digits():
    # scipy takes p = theta / (theta + mu), whose 1 - p rounds where mu << theta, and subtracts log-gammas.
    mu, theta = np.logspace(-4, 6, 11)[None, :, None], np.logspace(-4, 3, 8)[None, None, :]
    expected = stats.nbinom.logpmf(X[:, None, None], theta, theta / (theta + mu))
    got = NegativeBinomial(
        log_mu=torch.as_tensor(np.log(mu)), log_theta=torch.as_tensor(np.log(theta))
    ).log_prob(torch.as_tensor(X)[:, None, None])
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-8, atol=1e-8)


def test_poisson_is_exact_and_equals_scipy():
    expected = count_truth.poisson_log_prob(X, LOG_MU.astype(np.float32)).astype(np.float64)
    log_mu = torch.as_tensor(LOG_MU, dtype=torch.float32)[None]
    got = Poisson(log_mu=log_mu).log_prob(torch.as_tensor(X)[:, None])
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-5)
    double = Poisson(log_mu=torch.as_tensor(LOG_MU)[None]).log_prob(torch.as_tensor(X)[:, None])
    np.testing.assert_allclose(
        double.numpy(), stats.poisson.logpmf(X[:, None], np.exp(LOG_MU)), rtol=1e-9, atol=1e-8
    )


@pytest.mark.parametrize("zi_logit", [-40.0, -3.0, 0.0, 2.0, 40.0])
def test_zinb_is_the_mixture_of_a_zero_and_a_negative_binomial(zi_logit):
    x, log_mu, log_theta = _tensors(torch.float32)
    got = ZeroInflatedNegativeBinomial(
        log_mu=log_mu, log_theta=log_theta, zi_logits=torch.tensor(zi_logit)
    ).log_prob(x)
    log_pi, log_rest = -np.logaddexp(0, -zi_logit), -np.logaddexp(0, zi_logit)
    expected = _truth(np.float32) + log_rest
    expected[X == 0] = np.logaddexp(expected[X == 0], log_pi)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_and_right_on_the_whole_grid_of_extremes(dtype):
    x, log_mu, log_theta = _tensors(dtype, requires_grad=True)
    NegativeBinomial(log_mu=log_mu, log_theta=log_theta).log_prob(x).sum().backward()
    # Five-point differences of the truth; its own error is about 1e-9 here.
    h = 1e-3 if dtype == torch.float32 else 1e-4
    as_held = np.float32 if dtype == torch.float32 else np.float64
    mu = LOG_MU.astype(as_held).astype(np.float64)
    theta = LOG_THETA[::3].astype(as_held).astype(np.float64)  # both ends included; the truth is slow
    for parameter, (d_mu, d_theta) in ((log_mu, (1, 0)), (log_theta, (0, 1))):
        steps = {
            n: count_truth.nb_log_prob(X, mu + n * h * d_mu, theta + n * h * d_theta) for n in (-2, -1, 1, 2)
        }
        expected = (8 * (steps[1] - steps[-1]) - (steps[2] - steps[-2])) / (12 * h)
        # float32: mu = 1e5 itself is held to 1e-2 only, and x - mu is the gradient there.
        tolerance = 1e-3 if dtype == torch.float32 else 1e-7
        assert torch.isfinite(parameter.grad).all()
        np.testing.assert_allclose(
            parameter.grad[:, :, ::3].numpy(), expected.astype(np.float64), rtol=tolerance, atol=tolerance
        )


def test_gradients_of_all_three_pass_gradcheck():
    generator = torch.Generator().manual_seed(0)
    x = torch.tensor([0.0, 1.0, 4.0, 11.0, 0.0, 257.0, 3.0], dtype=torch.float64)
    log_mu, log_theta, logits = (
        torch.randn(7, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(3)
    )
    assert torch.autograd.gradcheck(lambda m: Poisson(log_mu=m).log_prob(x), (log_mu,))
    assert torch.autograd.gradcheck(
        lambda m, t: NegativeBinomial(log_mu=m, log_theta=t).log_prob(x), (log_mu, log_theta)
    )
    assert torch.autograd.gradcheck(
        lambda m, t, z: ZeroInflatedNegativeBinomial(log_mu=m, log_theta=t, zi_logits=z).log_prob(x),
        (log_mu, log_theta, logits),
    )


def test_gradients_of_broadcast_parameters_are_summed():
    x = torch.tensor([[0.0, 3.0, 2.0], [5.0, 0.0, 1.0]], dtype=torch.float64)
    log_mu = torch.tensor([[0.1], [0.7]], dtype=torch.float64, requires_grad=True)
    log_theta = torch.tensor([-0.3, 0.0, 1.1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda m, t: NegativeBinomial(log_mu=m, log_theta=t).log_prob(x), (log_mu, log_theta)
    )


def test_zinb_gradients_are_finite_at_the_extremes():
    x, log_mu, log_theta = _tensors(torch.float32, requires_grad=True)
    for zi_logit in (-100.0, 0.0, 100.0):
        logits = torch.full_like(log_mu, zi_logit).requires_grad_()
        log_prob = ZeroInflatedNegativeBinomial(
            log_mu=log_mu, log_theta=log_theta, zi_logits=logits
        ).log_prob(x)
        gradients = torch.autograd.grad(log_prob.sum(), (log_mu, log_theta, logits))
        assert torch.isfinite(log_prob).all()
        assert all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("name", ["zinb", "nb", "poisson"])
@pytest.mark.parametrize(("mu", "theta", "pi"), [(0.01, 0.3, 0.9), (2.3, 0.7, 0.2), (41.0, 1000.0, 0.05)])
def test_probabilities_sum_to_1_and_give_mean_and_variance(name, mu, theta, pi):
    parameters = {"log_mu": torch.tensor(mu, dtype=torch.float64).log()}
    if name != "poisson":
        parameters["log_theta"] = torch.tensor(theta, dtype=torch.float64).log()
    if name == "zinb":
        parameters["zi_logits"] = torch.tensor(pi, dtype=torch.float64).logit()
    distribution = build_distribution(name, **parameters)
    x = torch.arange(2003, dtype=torch.float64)  # the tail beyond is below 1e-15
    p = distribution.log_prob(x).exp()
    mean = (p * x).sum()
    torch.testing.assert_close(p.sum(), torch.tensor(1.0, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(distribution.mean, mean, rtol=1e-10, atol=0)
    torch.testing.assert_close(distribution.variance, (p * (x - mean) ** 2).sum(), rtol=1e-10, atol=0)


def test_large_theta_is_poisson():
    x = torch.arange(97, dtype=torch.float32)
    log_mu = torch.tensor(17.0).log()
    nb = NegativeBinomial(log_mu=log_mu, log_theta=torch.tensor(1e8).log()).log_prob(x)
    torch.testing.assert_close(nb, Poisson(log_mu=log_mu).log_prob(x), rtol=1e-5, atol=1e-5)


def test_parameters_in_half_precision_are_raised_to_float32():
    log_mu = torch.tensor([0.5, 2.0], dtype=torch.bfloat16)
    x = torch.tensor([3, 1])
    got = NegativeBinomial(log_mu=log_mu, log_theta=log_mu).log_prob(x)
    expected = NegativeBinomial(log_mu=log_mu.float(), log_theta=log_mu.float()).log_prob(x)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_integer_counts_and_an_empty_batch_are_fine():
    empty = NegativeBinomial(log_mu=torch.zeros(0, 5), log_theta=torch.zeros(5)).log_prob(
        torch.zeros(0, 5, dtype=torch.int32)
    )
    assert empty.shape == (0, 5)


@pytest.mark.parametrize("bad", [-1.0, 0.5, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["zinb", "nb", "poisson"])
def test_what_is_no_count_is_refused(name, bad):
    log_mu = torch.zeros(3)
    distribution = build_distribution(
        name,
        log_mu=log_mu,
        log_theta=None if name == "poisson" else log_mu,
        zi_logits=log_mu if name == "zinb" else None,
    )
    with pytest.raises(SectionError, match=r"1 values are not counts .*raw counts.*--counts-layer"):
        distribution.log_prob(torch.tensor([0.0, bad, 2.0]))


def test_validation_can_be_left_out():
    distribution = Poisson(log_mu=torch.zeros(1))
    # At 1.5 the formula still holds, with the gamma function for the factorial.
    got = distribution.log_prob(torch.tensor([1.5]), validate=False)
    torch.testing.assert_close(got, torch.tensor([-1.0 - float(torch.lgamma(torch.tensor(2.5)))]))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("zinb", {"log_theta": torch.zeros(1)}),
        ("nb", {}),
        ("nb", {"log_theta": torch.zeros(1), "zi_logits": torch.zeros(1)}),
        ("poisson", {"log_theta": torch.zeros(1)}),
    ],
)
def test_parameters_must_be_those_of_the_likelihood(name, given):
    with pytest.raises(ConfigError, match=rf"likelihood '{name}' was given.*--likelihood"):
        build_distribution(name, log_mu=torch.zeros(1), **given)
