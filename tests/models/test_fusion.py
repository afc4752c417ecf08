import dataclasses

import numpy as np
import pytest
import torch
from scipy import sparse

from spam.errors import ConfigError
from spam.models.networks import ConcatProj, GatedSum
from spam.models.fusion import FusionBatch, FusionModel
from spam.models import FusionEnsemble, build_distribution, closure

B, T, R, U, V, GENES, IMAGE = 5, 3, 4, 11, 19, 17, 13
CONFIGS = [(m, k) for m in ("gated-sum", "concat-proj") for k in ("zinb", "nb", "poisson")]


def _model(merge="gated-sum", likelihood="zinb", *, is_trained=True, dropout=0.0):
    torch.manual_seed(0)
    model = FusionModel(
        image_dim=IMAGE,
        n_genes=GENES,
        proj_dim=7,
        fuse_dim=6,
        heads=2,
        merge=merge,
        dropout=dropout,
        likelihood=likelihood,
    )
    if is_trained:  # the output layers start at zero, which hides all that stands before them
        with torch.no_grad():
            model.expression_decoder.weight.normal_()
            model.rate_decoder.weight.normal_()
            if model.zi_head is not None:
                model.zi_head.weight.normal_()
    return model


def _batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    weights = sparse.random_array((23, 23), density=0.3, format="csr", rng=np.random.default_rng(seed))
    return FusionBatch(
        image=draw(B, IMAGE),
        graph=closure(weights, np.arange(U)).gather(draw(23, IMAGE)),
        neighbour_index=torch.randint(0, U, (B, T), generator=generator),
        neighbour_offset=draw(B, T, 3),
        neighbour_mask=torch.ones(B, T, dtype=torch.bool),
        reference_expression=draw(V, GENES),
        reference_index=torch.randint(0, V, (B, R), generator=generator),
        reference_similarity=draw(B, R, 1),
        reference_mask=torch.ones(B, R, dtype=torch.bool),
    )


def _rows(batch, order):
    kept = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    return FusionBatch(
        **{name: v if name in ("graph", "reference_expression") else v[order] for name, v in kept.items()}
    )


@pytest.mark.parametrize(("merge", "likelihood"), CONFIGS)
def test_an_untrained_model_leaves_the_closed_form_prediction_as_it_is(merge, likelihood):
    out = _model(merge, likelihood, is_trained=False)(_batch())
    assert torch.equal(out.expression, torch.zeros(B, GENES))
    assert torch.equal(out.log_rate, torch.zeros(B, GENES))
    assert (out.log_theta is None) == (likelihood == "poisson")
    assert (out.zi_logits is None) == (likelihood != "zinb")
    if out.zi_logits is not None:
        assert torch.equal(out.zi_logits, torch.full((B, GENES), -3.0))


@pytest.mark.parametrize(("merge", "likelihood"), CONFIGS)
def test_the_loss_reaches_every_parameter(merge, likelihood):
    model = _model(merge, likelihood)
    out = model(_batch())
    counts = torch.poisson(torch.full((B, GENES), 2.0), generator=torch.Generator().manual_seed(0))
    distribution = build_distribution(
        likelihood, log_mu=out.log_rate, log_theta=out.log_theta, zi_logits=out.zi_logits
    )
    (out.expression.square().mean() - distribution.log_prob(counts).mean()).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9]


@pytest.mark.parametrize("merge", ["gated-sum", "concat-proj"])
def test_permuting_the_batch_permutes_the_result(merge):
    model, batch = _model(merge), _batch()
    order = torch.tensor([3, 0, 4, 1, 2])
    out, permuted = model(batch), model(_rows(batch, order))
    torch.testing.assert_close(permuted.expression, out.expression[order])
    torch.testing.assert_close(permuted.zi_logits, out.zi_logits[order])
    one = model(_rows(batch, torch.tensor([2])))
    torch.testing.assert_close(one.expression, out.expression[2:3])


@pytest.mark.parametrize("part", ["neighbour", "reference"])
def test_masked_tokens_have_no_influence_and_the_others_have(part):
    model, batch = _model(), _batch()
    name = "neighbour_offset" if part == "neighbour" else "reference_similarity"
    values, mask = getattr(batch, name).clone(), getattr(batch, f"{part}_mask").clone()
    mask[1, 0], mask[3] = False, False
    masked = dataclasses.replace(batch, **{f"{part}_mask": mask})
    expected = model(masked).expression
    values[1, 0], values[3] = 100.0, -100.0
    torch.testing.assert_close(
        model(dataclasses.replace(masked, **{name: values})).expression, expected, rtol=0, atol=0
    )
    changed = (model(batch).expression != expected).any(1)
    assert changed.tolist() == [False, True, False, True, False]


@pytest.mark.parametrize(
    "name",
    [
        *("image", "neighbour_index", "neighbour_offset", "reference_index", "reference_expression"),
        "reference_similarity",
    ],
)
def test_every_input_matters(name):
    model, batch = _model(), _batch()
    moved = getattr(batch, name).roll(1, dims=1)
    if name == "reference_similarity":  # another order of the tokens alone would change nothing
        moved = moved * 2
    changed = model(dataclasses.replace(batch, **{name: moved}))
    assert (changed.expression != model(batch).expression).any(1).all()


def test_the_graph_matters():
    model, batch = _model(), _batch()
    graph = dataclasses.replace(batch.graph, x_inputs=-batch.graph.x_inputs)
    changed = model(dataclasses.replace(batch, graph=graph))
    assert (changed.expression != model(batch).expression).any(1).all()


def test_mixed_precision_is_close_and_has_finite_gradients():
    model, batch = _model(), _batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(batch)
    out.expression.float().square().mean().backward()
    expected = model(batch).expression
    torch.testing.assert_close(out.expression.float(), expected, rtol=0.1, atol=0.15)  # bf16 keeps 8 bits
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_dropout_acts_in_training_alone():
    model, batch = _model(dropout=0.5), _batch()
    assert not torch.equal(model(batch).expression, model(batch).expression)
    model.eval()
    assert torch.equal(model(batch).expression, model(batch).expression)


@pytest.mark.parametrize("branches", [(), ("coord",), ("gene",)])
def test_a_branch_that_is_not_asked_for_is_neither_there_nor_looked_at(branches):
    torch.manual_seed(0)
    sizes = {"image_dim": IMAGE, "n_genes": GENES, "proj_dim": 7, "fuse_dim": 6, "heads": 2, "dropout": 0.0}
    model = FusionModel(**sizes, merge="gated-sum", likelihood="zinb", branches=branches)
    torch.nn.init.normal_(model.expression_decoder.weight)
    assert (model.gcn is not None, model.gene_encoder is not None) == (
        "coord" in branches,
        "gene" in branches,
    )
    batch = _batch()
    expected = model(batch).expression
    for name, branch in (("neighbour_offset", "coord"), ("reference_expression", "gene")):
        moved = dataclasses.replace(batch, **{name: getattr(batch, name) * 3})
        assert torch.equal(model(moved).expression, expected) == (branch not in branches)


def test_an_ensemble_is_the_mean_of_its_members():
    torch.manual_seed(0)
    sizes = {"image_dim": IMAGE, "n_genes": GENES, "proj_dim": 7, "fuse_dim": 6, "heads": 2, "dropout": 0.0}
    ensemble = FusionEnsemble(members=3, **sizes, merge="gated-sum", likelihood="zinb")
    for member in ensemble.members:
        torch.nn.init.normal_(member.expression_decoder.weight)
        torch.nn.init.normal_(member.rate_decoder.weight)
        torch.nn.init.normal_(member.log_theta)
    batch = _batch()
    out, each = ensemble(batch), [member(batch) for member in ensemble.members]
    assert not torch.equal(each[0].expression, each[1].expression)
    for name in ("expression", "log_rate", "log_theta", "zi_logits"):
        expected = sum(getattr(one, name) for one in each) / 3
        torch.testing.assert_close(getattr(out, name), expected)


def test_gated_sum_is_a_mean_with_learned_weights():
    torch.manual_seed(0)
    gated, parts = GatedSum(5, n_parts=3), torch.randn(7, 3, 5)
    gates = torch.nn.functional.linear(parts.reshape(7, 15), gated.gate.weight, gated.gate.bias).exp()
    expected = sum(gates[:, i, None] / gates.sum(1, keepdim=True) * parts[:, i] for i in range(3))
    torch.testing.assert_close(gated(parts), expected)
    same = parts[:, :1].expand(7, 3, 5)
    torch.testing.assert_close(gated(same), parts[:, 0])


def test_concat_proj_is_linear_in_all_parts():
    torch.manual_seed(0)
    merge, parts = ConcatProj(5, n_parts=3), torch.randn(7, 3, 5)
    w = merge.project.weight
    expected = sum(parts[:, i] @ w[:, 5 * i : 5 * i + 5].T for i in range(3)) + merge.project.bias
    torch.testing.assert_close(merge(parts), expected)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(("merge", "likelihood"), [("sum", "nb"), ("gated-sum", "gauss")])
def test_unknown_choices_are_refused(merge, likelihood):
    with pytest.raises(ConfigError, match=rf"--merge '{merge}' with --likelihood '{likelihood}' is unknown"):
        _model(merge, likelihood)
