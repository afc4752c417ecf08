import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cohorts import add_section, make_cohort
from safetensors.numpy import load_file

from spam.errors import CheckpointError, OutputExistsError, StoreError
from spam.models.checkpoint import read_checkpoint, read_checkpoint_meta
from spam.prediction import Predictor
from spam.progress import SILENT
from spam.schemas.training_config import FinetuneConfig, PretrainConfig
from spam.store import open_store
from spam.training import finetune, pretrain
from spam.training.dataset import build_training_set
from spam.training.fusion_stage import FusionStage
from spam.training.loop import fit
from spam.training.pretraining import AlignmentStage

SMALL_PRETRAIN = {"proj_dim": 16, "batch_size": 31, "n_top_genes": 29, "k": 5, "epochs": 2}
SMALL_FINETUNE = {
    "fuse_dim": 24,
    "heads": 3,
    "members": 2,
    "attend": "both",
    "k": 5,
    "n_neighbours": 4,
    "n_references": 5,
    "n_top_genes": 29,
    "epochs": 2,
    "batch_size": 31,
}


def pretraining(store: Path, out: Path, **changes: object) -> PretrainConfig:
    return PretrainConfig(**{"store": store, "save_dir": out, **SMALL_PRETRAIN, **changes})  # type: ignore[arg-type]


def finetuning(store: Path, out: Path, **changes: object) -> FinetuneConfig:
    return FinetuneConfig(**{"store": store, "save_dir": out, **SMALL_FINETUNE, **changes})  # type: ignore[arg-type]


def assert_same_files(a: Path, b: Path) -> None:
    first, second = load_file(a), load_file(b)
    assert set(first) == set(second)
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor, second[name], err_msg=name)
    one, two = read_checkpoint_meta(a), read_checkpoint_meta(b)
    assert replace(one, config={}) == replace(two, config={})


def test_alignment_is_learned_on_a_held_out_section(cohort: Path, tmp_path: Path) -> None:
    report = pretrain(pretraining(cohort, tmp_path, epochs=25, lr=2e-3))
    best, start = report.run.best, report.run.history[0]
    assert report.val_sections == ("S4",)
    assert best["val_ln_batch"] == pytest.approx(math.log(31))
    for pair in ("gene", "coord"):
        assert best[f"val_{pair}_loss"] < start[f"val_{pair}_loss"] - 0.2
        assert best[f"val_{pair}_recall_10"] > 2 * 10 / report.n_val
    assert "alignment learned" in report.summary()


def test_pure_noise_is_said_not_to_be_learned(tmp_path: Path) -> None:
    store = make_cohort(tmp_path / "noise.zarr", 3, signal=0.0)
    report = pretrain(pretraining(store, tmp_path / "out", mode="img-gene", epochs=3))
    assert "NOT learned" in report.summary()


@pytest.mark.parametrize(
    ("mode", "there", "absent"), [("img-gene", "gene", "coord"), ("img-coord", "coord", "gene")]
)
def test_single_modes_train_one_pair(
    cohort: Path, tmp_path: Path, mode: str, there: str, absent: str
) -> None:
    best = pretrain(pretraining(cohort, tmp_path, mode=mode, epochs=1)).run.best
    assert f"val_{there}_loss" in best
    assert f"val_{absent}_loss" not in best


def test_the_contrastive_loss_of_a_step_is_the_sum_of_its_pairs(cohort: Path, tmp_path: Path) -> None:
    config = pretraining(cohort, tmp_path, temperature=0.3, mixing=0.25)
    stage = AlignmentStage(config, build_training_set(config), torch.device("cpu"))
    stage.network.eval()
    rows = stage.train_rows[:13]
    embedded = stage._embed(rows)
    truth = 0.0
    for other in (embedded.gene, embedded.coord):
        assert other is not None
        a = torch.nn.functional.normalize(embedded.image).double().detach().numpy()
        b = torch.nn.functional.normalize(other).double().detach().numpy()
        logits = a @ b.T / 0.3
        for i in range(13):
            truth -= 0.25 * (logits[i, i] - np.log(np.exp(logits[i]).sum())) / 13
            truth -= 0.75 * (logits[i, i] - np.log(np.exp(logits[:, i]).sum())) / 13
    assert float(stage.loss(rows).total.detach()) == pytest.approx(truth, rel=1e-5)


def test_a_stopped_pretraining_ends_as_an_unbroken_one(cohort: Path, tmp_path: Path) -> None:
    whole = pretrain(pretraining(cohort, tmp_path / "whole", epochs=4))
    pretrain(pretraining(cohort, tmp_path / "parts", epochs=2))
    resumed = pretrain(pretraining(cohort, tmp_path / "parts", epochs=4))
    assert (whole.run.resumed_from, resumed.run.resumed_from) == (0, 2)
    for name in ("best.safetensors", "last.safetensors"):
        assert_same_files(tmp_path / "whole" / name, tmp_path / "parts" / name)


def test_stage_2_sees_images_as_stage_1_did(cohort: Path, pretrained: Path, tmp_path: Path) -> None:
    run = finetune(finetuning(cohort, tmp_path, epochs=1, pretrained_ckpt=pretrained)).run
    first, second = (
        read_checkpoint(path, stage=stage)[1]
        for path, stage in ((pretrained, "pretrain"), (run.best_path, "finetune"))
    )
    inputs = [name for name in first if name.startswith("inputs.")]
    assert {"inputs.spread", "inputs.components"} < set(inputs)
    for name in inputs:
        np.testing.assert_array_equal(second[name], first[name])


def test_a_stopped_finetuning_ends_as_an_unbroken_one(cohort: Path, pretrained: Path, tmp_path: Path) -> None:
    finetune(finetuning(cohort, tmp_path / "whole", epochs=4, pretrained_ckpt=pretrained))
    finetune(finetuning(cohort, tmp_path / "parts", epochs=1, pretrained_ckpt=pretrained))
    finetune(finetuning(cohort, tmp_path / "parts", epochs=4, pretrained_ckpt=pretrained))
    for name in (
        "best.safetensors",
        "last.safetensors",
        "selection/best.safetensors",
        "selection/last.safetensors",
    ):
        assert_same_files(tmp_path / "whole" / name, tmp_path / "parts" / name)


def test_a_finished_run_is_not_trained_again(cohort: Path, tmp_path: Path) -> None:
    pretrain(pretraining(cohort, tmp_path))
    before = (tmp_path / "last.safetensors").stat().st_mtime_ns
    report = pretrain(pretraining(cohort, tmp_path))
    assert report.run.resumed_from == 2
    assert (tmp_path / "last.safetensors").stat().st_mtime_ns == before


def test_fewer_epochs_than_were_run_are_refused(cohort: Path, tmp_path: Path) -> None:
    pretrain(pretraining(cohort, tmp_path))
    with pytest.raises(
        OutputExistsError, match=r"holds a run of 2 epochs, more than --epochs 1; .*--overwrite"
    ):
        pretrain(pretraining(cohort, tmp_path, epochs=1))


@pytest.mark.parametrize(("name", "value"), [("n_top_genes", 5), ("n_components", 7), ("use_hvg", False)])
def test_what_pretraining_has_settled_cannot_be_changed_after_it(
    cohort: Path, pretrained: Path, tmp_path: Path, name: str, value: object
) -> None:
    flag = "--" + name.replace("_", "-")
    with pytest.raises(CheckpointError, match=rf"made with others: {flag} {value} \(there: "):
        finetune(finetuning(cohort, tmp_path, **{name: value}, pretrained_ckpt=pretrained))


def test_another_run_in_the_save_dir_is_not_overwritten(cohort: Path, tmp_path: Path) -> None:
    pretrain(pretraining(cohort, tmp_path))
    with pytest.raises(
        OutputExistsError, match=r"holds a run with other options \(temperature\); .*--overwrite"
    ):
        pretrain(pretraining(cohort, tmp_path, temperature=0.5))
    report = pretrain(pretraining(cohort, tmp_path, temperature=0.5, overwrite=True))
    assert report.run.resumed_from == 0


def test_other_data_are_not_trained_on_with_old_weights(tmp_path: Path) -> None:
    pretrain(pretraining(make_cohort(tmp_path / "a.zarr", 2), tmp_path / "out"))
    other = make_cohort(tmp_path / "b.zarr", 1)
    add_section(other, "S2", seed=5, n_spots=39)
    with pytest.raises(OutputExistsError, match="holds a run with other data"):
        pretrain(pretraining(other, tmp_path / "out"))


def test_the_resolved_configuration_lies_beside_the_checkpoints(cohort: Path, tmp_path: Path) -> None:
    config = pretraining(cohort, tmp_path)
    report = pretrain(config)
    resolved = json.loads((tmp_path / "config.json").read_text())
    assert resolved["config"] == json.loads(json.dumps(config.to_mapping(), default=str))
    assert resolved["software"]["torch"] == torch.__version__.split("+")[0]
    assert json.loads((tmp_path / "history.json").read_text()) == report.run.history
    assert [int(figures["epoch"]) for figures in report.run.history] == [0, 1, 2]


CHANGES = {
    "sections": ("S1", "S2", "S4"),
    "val_sections": ("S1",),
    "tile_um": (112.0,),
    "epochs": 1,
    "batch_size": 17,
    "lr": 3e-3,
    "weight_decay": 0.5,
    "dropout": 0.3,
    "k": 4,
    "n_components": 7,
    "use_hvg": False,
    "n_top_genes": 13,
    "seed": 1,
    "amp": True,
}
PRETRAIN_CHANGES = {
    **CHANGES,
    "mode": "img-gene",
    "proj_dim": 8,
    "temperature": 0.3,
    "mixing": 0.1,
    "targets": "soft",
    "mask_neighbours": True,
    "balance_donors": True,
}
SHORT_FINETUNE = {"epochs": 1, "members": 1}  # what the changes of options are compared with
FINETUNE_CHANGES = {
    **CHANGES,
    "epochs": 2,
    "members": 2,
    "path": "ridge",
    "attend": "references",
    "fuse_dim": 12,
    "heads": 2,
    "merge": "concat-proj",
    "likelihood": "nb",
    "n_neighbours": 3,
    "n_references": 3,
}
# They say where things are and how fast they go, not what comes out.
WITHOUT_EFFECT = {"store", "save_dir", "enc_name", "device", "num_workers", "overwrite", "amp_dtype"}
WITHOUT_EFFECT |= {
    "stain",
    "dihedral",
}  # choose among features that this cohort has not, see test_feature_kinds.py


def weights(path: Path) -> dict[str, np.ndarray]:
    return {name: value for name, value in load_file(path).items() if name.startswith("network.")}


def differ(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return set(a) != set(b) or any(a[k].shape != b[k].shape or not np.array_equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def plain_runs(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("plain")
    pretrain(pretraining(cohort, out / "pretrain"))
    finetune(finetuning(cohort, out / "finetune", **SHORT_FINETUNE))
    return {
        "pretrain": out / "pretrain" / "last.safetensors",
        "finetune": out / "finetune" / "selection" / "last.safetensors",
    }


@pytest.mark.parametrize("name", PRETRAIN_CHANGES)
def test_every_option_of_pretrain_changes_the_result(
    cohort: Path, plain_runs: dict[str, Path], tmp_path: Path, name: str
) -> None:
    pretrain(pretraining(cohort, tmp_path, **{name: PRETRAIN_CHANGES[name]}))
    assert differ(weights(tmp_path / "last.safetensors"), weights(plain_runs["pretrain"]))


@pytest.mark.parametrize("name", FINETUNE_CHANGES)
def test_every_option_of_finetune_changes_the_result(
    cohort: Path, plain_runs: dict[str, Path], tmp_path: Path, name: str
) -> None:
    finetune(finetuning(cohort, tmp_path, **{**SHORT_FINETUNE, name: FINETUNE_CHANGES[name]}))
    assert differ(weights(tmp_path / "selection" / "last.safetensors"), weights(plain_runs["finetune"]))


def test_no_option_is_forgotten_above() -> None:
    for config, changes in ((PretrainConfig, PRETRAIN_CHANGES), (FinetuneConfig, FINETUNE_CHANGES)):
        fields = set(config.__dataclass_fields__) - {"pretrained_ckpt"}
        assert fields == set(changes) | WITHOUT_EFFECT


def test_finetuning_starts_from_the_pretrained_encoders(
    cohort: Path, pretrained: Path, tmp_path: Path
) -> None:
    config = finetuning(cohort, tmp_path)
    checkpoint = read_checkpoint(pretrained, stage="pretrain")
    tensors = checkpoint[1]
    stage = FusionStage(config, build_training_set(config), checkpoint, torch.device("cpu"))
    state = stage.network.state_dict()
    loaded = [name for name in tensors if name.startswith("network.")]
    assert {name.split(".")[1] for name in loaded} == {"image_projector", "gcn", "gene_encoder"}
    for name in loaded:
        for member in (0, 1):
            own = state[f"members.{member}.{name.removeprefix('network.')}"]
            np.testing.assert_array_equal(own.numpy(), tensors[name])


def test_pretraining_on_the_section_that_is_held_out_now_is_refused(
    cohort: Path, pretrained: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"trained on S2, which would be held out now; hold out S4"):
        finetune(finetuning(cohort, tmp_path, val_sections=("S2",), pretrained_ckpt=pretrained))


def test_pretraining_on_the_block_that_is_held_out_now_is_refused(tmp_path: Path) -> None:
    store = make_cohort(tmp_path / "two.zarr", 2)
    aligned = pretrain(pretraining(store, tmp_path / "pretrain")).run.best_path  # on all of S1
    config = finetuning(store, tmp_path / "finetune", sections=("S1",), pretrained_ckpt=aligned)
    with pytest.raises(CheckpointError, match="trained on S1, a block of which is held out now; hold out S2"):
        finetune(config)


def test_sections_of_the_pretraining_alone_are_remembered_last(cohort: Path, tmp_path: Path) -> None:
    """Stage 1 has seen S1's counts: a prediction of S1 must not pass for one of a new section."""
    aligned = pretrain(pretraining(cohort, tmp_path / "pretrain", epochs=1)).run.best_path
    config = finetuning(
        cohort, tmp_path / "finetune", sections=("S2", "S3", "S4"), pretrained_ckpt=aligned, epochs=1
    )
    meta = read_checkpoint_meta(finetune(config).run.best_path)
    assert list(meta.donors) == ["S2", "S3", "S4", "S1"]
    assert meta.train_sections == ("S2", "S3", "S4")  # S4 was held out at first


def test_one_section_with_counts_is_not_enough_beside_empty_ones(tmp_path: Path) -> None:
    store = make_cohort(tmp_path / "empty.zarr", 1)
    add_section(store, "S2", seed=1, change_counts="zero")
    add_section(store, "S3", seed=2)
    with pytest.raises(StoreError, match="only section 'S1' has counts to train on"):
        finetune(finetuning(store, tmp_path / "out"))


def test_a_killed_overwriting_run_is_not_taken_for_the_one_before(cohort: Path, tmp_path: Path) -> None:
    pretrain(pretraining(cohort, tmp_path))

    class Killed(AlignmentStage):
        def validate(self) -> dict[str, float]:
            raise KeyboardInterrupt

    config = pretraining(cohort, tmp_path, overwrite=True)
    stage = Killed(config, build_training_set(config), torch.device("cpu"))
    with pytest.raises(KeyboardInterrupt):
        fit(stage, config, device=torch.device("cpu"), progress=SILENT)
    report = pretrain(pretraining(cohort, tmp_path))
    assert report.run.resumed_from == 0
    assert report.run.best_path.is_file()


def test_a_checkpoint_of_other_features_is_refused(cohort: Path, pretrained: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"trained on features tiny_112um, tiny_224um .*'tile_um': 224\.0.* offers tiny_112um .*--tile-um",
    ):
        finetune(finetuning(cohort, tmp_path, tile_um=(112.0,), pretrained_ckpt=pretrained))


def test_a_lone_section_is_trained_on_by_blocks(tmp_path: Path) -> None:
    store = make_cohort(tmp_path / "one.zarr", 1)
    aligned = pretrain(pretraining(store, tmp_path / "pretrain", batch_size=7))
    report = finetune(finetuning(store, tmp_path / "finetune", pretrained_ckpt=aligned.run.best_path))
    assert report.n_train == 37  # the block that is held out at first is trained on in the end
    assert 0 < report.n_val < 37
    assert report.val_sections == ()


def test_counts_of_a_training_spot_do_not_reach_its_own_inputs(tmp_path: Path) -> None:
    """Change all counts of one section: what its own spots are predicted from stays the same, bit for bit."""
    stages = []
    for i, change in enumerate((None, "shuffle")):
        store = tmp_path / f"{i}.zarr"
        for j, name in enumerate(("S1", "S2", "S3", "S4")):
            add_section(store, name, seed=j, change_counts=change if name == "S2" else None)
        config = finetuning(store, tmp_path / "out", use_hvg=False)
        stages.append(FusionStage(config, build_training_set(config), None, torch.device("cpu")))
    own = np.flatnonzero(stages[0].data.section_of == 1)
    others = np.flatnonzero(stages[0].data.section_of == 0)
    assert differ_in_inputs(*stages, others)  # the change is seen where it may be
    assert not differ_in_inputs(*stages, own)


def differ_in_inputs(a: FusionStage, b: FusionStage, rows: np.ndarray) -> bool:
    first, second = a._fusion.batch(rows), b._fusion.batch(rows)
    names = ("image", "neighbour_offset", "reference_similarity")
    pairs = [(getattr(first, name), getattr(second, name)) for name in names]
    pairs += [
        (one.reference_expression[one.reference_index], two.reference_expression[two.reference_index])
        for one, two in ((first, second),)
    ]
    pairs += [(first.graph.x_inputs, second.graph.x_inputs)]
    pairs += [(a._base[rows], b._base[rows]), (a._offset[rows], b._offset[rows])]
    return not all(torch.equal(x, y) for x, y in pairs)


_WALK: list[float] = (1.0 + np.random.default_rng(0).normal(0.0, 0.008, 30).cumsum()).tolist()


@pytest.mark.parametrize(
    "losses",
    [[1.0], [1.0, 0.7, 0.705, 0.8], [1.0, 0.7, 0.6, 0.65], [0.5, 0.9, 0.505], [0.5, 0.6], _WALK],
)
def test_the_last_epoch_of_the_flat_part_is_kept(
    losses: list[float], cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = finetuning(cohort, tmp_path, members=1, attend="none")
    stage = FusionStage(config, build_training_set(config, None), None, torch.device("cpu"))
    script = iter(losses)
    monkeypatch.setattr(stage, "validate", lambda: {"loss": next(script)})
    run = fit(stage, config, device=torch.device("cpu"), progress=SILENT, epochs=len(losses) - 1)
    flat = np.flatnonzero(np.array(losses) <= min(losses) + 0.01)
    assert run.best["epoch"] == read_checkpoint_meta(run.best_path).epoch == flat[-1]
    assert read_checkpoint_meta(run.last_path).epoch == len(losses) - 1


def test_where_held_out_spots_contradict_what_is_learned_the_mean_is_predicted(tmp_path: Path) -> None:
    for i, signal in enumerate((1.5, 1.5, -1.5), start=1):
        add_section(tmp_path / "store.zarr", f"S{i}", seed=i, signal=signal)
    config = finetuning(tmp_path / "store.zarr", tmp_path / "run", sections=("S1", "S2", "S3"), lr=3e-3)
    report = finetune(config)
    assert report.val_sections == ("S3",)
    assert report.selection.best["epoch"] == 0
    assert report.selection.history[-1]["val_pearson"] < -0.1
    assert len(report.run.history) == 1
    assert "nothing is learned" in report.summary()
    assert "the mean is predicted; checkpoint" in report.summary()
    predictor = Predictor.load(report.run.best_path, torch.device("cpu"))
    found = predictor.predict(open_store(tmp_path / "store.zarr").section("S3"))
    assert np.ptp(found.expression, axis=0).max() < 1e-5
    assert not found.is_predictable.any()
    # The same command finds it done.
    assert finetune(config).run.resumed_from == 0
