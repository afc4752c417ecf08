import dataclasses
import itertools

import numpy as np
import pytest
import torch
from scipy import sparse

from spam.models.count_likelihood import count_log_prob
from spam.models.fusion import (
    FusionBatch,
    FusionEnsemble,
    FusionInputs,
    FusionModel,
    TokenBatch,
    TokenTable,
    retrieve,
)
from spam.models.networks import closure

B, T, R, U, V, GENES, IMAGE = 5, 3, 4, 11, 19, 17, 13
SIZES = {"image_dim": IMAGE, "n_genes": GENES, "proj_dim": 7, "fuse_dim": 6, "heads": 2}
CONFIGS = [(m, k) for m in ("gated-sum", "concat-proj") for k in ("zinb", "nb", "poisson")]


def model_of(merge="gated-sum", likelihood="zinb", *, is_trained=True, **options):
    torch.manual_seed(0)
    model = FusionModel(**{**SIZES, "dropout": 0.0, "merge": merge, "likelihood": likelihood, **options})
    if is_trained:  # the output layers start at zero, which hides all that stands before them
        for layer in (model.expression_decoder, model.rate_decoder, model.zi_head):
            if layer is not None:
                torch.nn.init.normal_(layer.weight)
    return model


def batch_of(seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    weights = sparse.random_array((23, 23), density=0.3, format="csr", rng=np.random.default_rng(seed))

    def tokens(values, t, n, r):
        index, mask = torch.randint(0, n, (B, t), generator=generator), torch.ones(B, t, dtype=torch.bool)
        return TokenBatch(values=values, index=index, relation=draw(B, t, r), mask=mask)

    return FusionBatch(
        image=draw(B, IMAGE),
        neighbours=tokens(closure(weights, np.arange(U)).gather(draw(23, IMAGE)), T, U, 3),
        references=tokens(draw(V, GENES), R, V, 1),
    )


def changed(batch, part, **changes):
    tokens = dataclasses.replace(getattr(batch, part), **changes)
    return dataclasses.replace(batch, **{part: tokens})


@pytest.mark.parametrize(("merge", "likelihood"), CONFIGS)
def test_an_untrained_model_leaves_the_path_as_it_is_and_the_loss_reaches_every_parameter(merge, likelihood):
    out = model_of(merge, likelihood, is_trained=False)(batch_of())
    assert not out.expression.any()
    assert not out.log_rate.any()
    assert (out.log_theta is None) == (likelihood == "poisson")
    assert (out.zi_logits is None) == (likelihood != "zinb")
    assert out.zi_logits is None or torch.equal(out.zi_logits, torch.full((B, GENES), -3.0))
    model = model_of(merge, likelihood)
    out = model(batch_of())
    counts = torch.poisson(torch.full((B, GENES), 2.0), generator=torch.Generator().manual_seed(0))
    nll = -count_log_prob(counts, log_mu=out.log_rate, log_theta=out.log_theta, zi_logits=out.zi_logits)
    (out.expression.square().mean() + nll.mean()).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9]


def test_the_count_likelihood_does_not_update_the_shared_representation():
    model = model_of()
    out = model(batch_of())
    (out.log_rate.square().mean() + out.zi_logits.mean()).backward()
    heads = ("rate_decoder", "zi_head")
    assert all((p.grad is not None) == n.startswith(heads) for n, p in model.named_parameters())


@pytest.mark.parametrize("merge", ["gated-sum", "concat-proj"])
def test_rows_do_not_influence_each_other(merge):
    model, batch = model_of(merge), batch_of()
    order = torch.tensor([3, 0, 4])
    rows = FusionBatch(image=batch.image[order])
    for part in ("neighbours", "references"):
        whole = getattr(batch, part)
        kept = {name: getattr(whole, name)[order] for name in ("index", "relation", "mask")}
        rows = dataclasses.replace(rows, **{part: dataclasses.replace(whole, **kept)})
    torch.testing.assert_close(model(rows).expression, model(batch).expression[order])


@pytest.mark.parametrize("part", ["neighbours", "references"])
def test_every_input_of_a_branch_matters_unless_it_is_masked_or_the_branch_is_absent(part):
    batch = batch_of()
    tokens = getattr(batch, part)
    values = tokens.values
    is_graph = part == "neighbours"
    moved = dataclasses.replace(values, x_inputs=-values.x_inputs) if is_graph else values.flip(1)
    other = model_of(branches=("gene",) if part == "neighbours" else ("coord",))
    for change in (
        {"values": moved},
        {"index": tokens.index.roll(1, dims=1)},
        {"relation": tokens.relation * 3},
    ):
        moved_batch = changed(batch, part, **change)
        assert (model_of()(moved_batch).expression != model_of()(batch).expression).any(1).all()
        assert torch.equal(other(moved_batch).expression, other(batch).expression)
    mask, relation = tokens.mask.clone(), tokens.relation.clone()
    mask[1, 0], mask[3] = False, False
    relation[1, 0], relation[3] = 100.0, -100.0
    masked = model_of()(changed(batch, part, mask=mask)).expression
    assert torch.equal(model_of()(changed(batch, part, mask=mask, relation=relation)).expression, masked)
    is_changed = (masked != model_of()(batch).expression).any(1)
    assert is_changed.tolist() == [False, True, False, True, False]


def test_mixed_precision_is_close_and_has_finite_gradients():
    model, batch = model_of(), batch_of()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(batch)
    out.expression.float().square().mean().backward()
    expected = model(batch).expression
    torch.testing.assert_close(out.expression.float(), expected, rtol=0.1, atol=0.15)  # bf16 keeps 8 bits
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_dropout_acts_in_training_alone():
    model, batch = model_of(dropout=0.5), batch_of()
    assert not torch.equal(model(batch).expression, model(batch).expression)
    model.eval()
    assert torch.equal(model(batch).expression, model(batch).expression)


def unlike_members() -> FusionEnsemble:
    """Three members whose decoders, which start equal, differ."""
    torch.manual_seed(0)
    ensemble = FusionEnsemble(members=3, **SIZES, dropout=0.0, merge="gated-sum", likelihood="zinb")
    for member in ensemble.members:
        for values in (member.expression_decoder.weight, member.rate_decoder.weight, member.log_theta):
            torch.nn.init.normal_(values)
    return ensemble


def test_an_ensemble_is_the_mean_of_its_members():
    ensemble = unlike_members()
    batch = batch_of()
    out, each = ensemble(batch), [member(batch) for member in ensemble.members]
    assert not torch.equal(each[0].expression, each[1].expression)
    for name in ("expression", "log_rate", "log_theta", "zi_logits"):
        expected = sum(getattr(one, name) for one in each) / 3
        torch.testing.assert_close(getattr(out, name), expected)


def test_each_member_learns_the_counts_of_its_share_of_a_batch():
    ensemble = unlike_members()
    batch = batch_of()
    expression, out = ensemble.each(batch)
    alone = [member(batch) for member in ensemble.members]
    torch.testing.assert_close(expression, torch.stack([one.expression for one in alone]))
    cuts = [len(batch.image) * i // 3 for i in range(4)]
    for one, (a, b) in zip(alone, itertools.pairwise(cuts), strict=True):
        for name in ("expression", "log_rate", "zi_logits"):
            torch.testing.assert_close(getattr(out, name)[a:b], getattr(one, name)[a:b])
    torch.testing.assert_close(out.log_theta, sum(one.log_theta for one in alone) / 3)


def test_retrieval_is_by_cosine_and_leaves_places_of_a_small_bank_unused():
    rng = np.random.default_rng(0)
    queries, bank = (rng.normal(size=(n, 3)).astype(np.float32) for n in (5, 11))
    found = retrieve(queries, bank, 4)
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (queries, bank)]
    cosine = unit[0] @ unit[1].T
    np.testing.assert_array_equal(found.index, np.argsort(-cosine, axis=1)[:, :4])
    np.testing.assert_allclose(found.relation[:, :, 0], -np.sort(-cosine, axis=1)[:, :4], atol=1e-6)
    few = retrieve(queries, bank[:2], 4)
    np.testing.assert_array_equal(few.is_usable, [[True, True, False, False]] * 5)
    assert not retrieve(queries, bank[:0], 4).is_usable.any()


def test_batches_gather_what_the_tables_name():
    rng = np.random.default_rng(0)
    inputs, bank = torch.randn(23, IMAGE), torch.randn(V, GENES)
    weights = sparse.csr_matrix(sparse.random_array((23, 23), density=0.3, rng=rng))
    near, refs = (
        TokenTable(
            index=rng.integers(0, n, (23, t)),
            relation=rng.normal(size=(23, t, r)).astype(np.float32),
            is_usable=rng.random((23, t)) < 0.8,
        )
        for n, t, r in ((23, T, 3), (V, R, 1))
    )
    whole = FusionInputs(inputs=inputs, neighbours=near, weights=weights, references=refs, bank=bank)
    rows = np.array([7, 2, 7])
    batch = whole.batch(rows)
    assert torch.equal(batch.image, inputs[rows])
    assert torch.equal(batch.references.values[batch.references.index], bank[refs.index[rows]])
    tokens = model_of().gcn(batch.neighbours.values)[batch.neighbours.index]
    every = model_of().gcn(closure(weights, np.arange(23)).gather(inputs))
    torch.testing.assert_close(tokens, every[near.index[rows]])
    for part, table in ((batch.neighbours, near), (batch.references, refs)):
        np.testing.assert_array_equal(part.relation, table.relation[rows])
        np.testing.assert_array_equal(part.mask, table.is_usable[rows])
    plain = FusionInputs(inputs=inputs).batch(rows)
    assert plain.neighbours is plain.references is None
