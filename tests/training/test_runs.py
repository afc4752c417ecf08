import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cohorts import add_section, make_cohort
from http_range_server import HttpRangeServer
from pointing import forget_connections
from safetensors.numpy import load_file
from scipy.sparse import csr_array, csr_matrix
from training_runs import finetuning, pretraining

from spam.errors import CheckpointError, ConfigError, OutputExistsError, SpamError, StoreError
from spam.evaluation import PredictReport
from spam.models.checkpoint import read_checkpoint, read_checkpoint_meta, write_checkpoint
from spam.prediction import Predictor
from spam.progress import SILENT
from spam.schemas.training_config import FinetuneConfig, PretrainConfig
from spam.store import StoredRows, StoredSection, open_store
from spam.training import finetune, fusion_stage, pretrain
from spam.training.cohort import SpotData, read_spots
from spam.training.finetuning import finetune_on
from spam.training.fusion_stage import FusionStage
from spam.training.groups import folds_of
from spam.training.loop import LossTerms, fit
from spam.training.pretraining import AlignmentStage
from spam.training.training_set import build_training_set

CPU = torch.device("cpu")


def assert_same_files(a: Path, b: Path) -> None:
    first, second = load_file(a), load_file(b)
    assert set(first) == set(second)
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor, second[name], err_msg=name)
    one, two = read_checkpoint_meta(a), read_checkpoint_meta(b)
    assert replace(one, config={}) == replace(two, config={})


def test_the_contrastive_loss_of_a_step_is_the_sum_of_its_pairs(cohort: Path, tmp_path: Path) -> None:
    config = pretraining(cohort, tmp_path, temperature=0.3, mixing=0.25)
    stage = AlignmentStage(config, build_training_set(config), CPU)
    stage.network.eval()
    rows = stage.train_rows[:13]
    embedded = stage.embed(rows, stage.expression_of(rows))
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


def test_a_stopped_run_ends_as_an_unbroken_one_and_a_finished_one_is_not_repeated(
    cohort: Path, pretrained: Path, tmp_path: Path
) -> None:
    for stage, run, options in (("pretrain", pretrain, pretraining), ("finetune", finetune, finetuning)):
        given = {"pretrained_ckpt": pretrained} if stage == "finetune" else {}
        whole, parts = tmp_path / stage / "whole", tmp_path / stage / "parts"
        run(options(cohort, whole, epochs=2, **given))  # type: ignore[operator]
        run(options(cohort, parts, epochs=1, **given))  # type: ignore[operator]
        report = run(options(cohort, parts, epochs=2, **given))  # type: ignore[operator]
        files = [f"{name}.safetensors" for name in ("best", "last")]
        files += [f"selection/1/{name}" for name in files] if stage == "finetune" else []
        for name in files:
            assert_same_files(whole / name, parts / name)
        resumed = report.selections[0] if stage == "finetune" else report.run
        assert resumed.resumed_from == 1
        before = (parts / "last.safetensors").stat().st_mtime_ns
        run(options(cohort, parts, epochs=2, **given))  # type: ignore[operator]
        assert (parts / "last.safetensors").stat().st_mtime_ns == before


def test_a_run_that_is_stopped_between_folds_ends_as_an_unbroken_one(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the first epoch of the second fold, of two donors."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finetune(finetuning(cohort, whole))
    validate, calls = FusionStage.validate, list[int]()

    def interrupted(stage: FusionStage) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 5:  # three epochs of the first fold, counting the state before training
            raise KeyboardInterrupt
        return validate(stage)

    with monkeypatch.context() as patch:
        patch.setattr(FusionStage, "validate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            finetune(finetuning(cohort, parts))
    assert (parts / "selection" / "2").is_dir()
    assert not (parts / "best.safetensors").exists()
    report = finetune(finetuning(cohort, parts))
    assert [run.resumed_from for run in report.selections] == [2, 0]
    for path in whole.rglob("*.safetensors"):
        assert_same_files(path, parts / path.relative_to(whole))


def test_nothing_of_a_run_that_is_replaced_stays(cohort: Path, pretrained: Path, tmp_path: Path) -> None:
    small = {"attend": "none", "with_bank": False, "members": 1, "epochs": 1}
    finetune(finetuning(cohort, tmp_path, pretrained_ckpt=pretrained, **small))
    finetune(finetuning(cohort, tmp_path, overwrite=True, **small))
    assert not (tmp_path / "health.json").exists()
    assert (tmp_path / "selection" / "2").is_dir()
    report = finetune(finetuning(cohort, tmp_path, overwrite=True, val_sections=("S4",), **small))
    assert {path.name for path in (tmp_path / "selection").iterdir()} == {"1", "history.json"}
    assert len(report.selections) == 1


def test_a_finished_run_takes_over_what_longer_folds_say(cohort: Path, tmp_path: Path) -> None:
    """Only the folds have more epochs left, if the best number of epochs stays as it was."""
    small = {"attend": "none", "with_bank": False, "members": 1, "lr": 1e-12}
    finetune(finetuning(cohort, tmp_path, epochs=1, **small))
    path = tmp_path / "best.safetensors"
    meta, tensors = read_checkpoint(path, stage="finetune")
    write_checkpoint(path, meta, tensors | {"stack.weights": np.array([0.0, 0.0, 1.0])})
    report = finetune(finetuning(cohort, tmp_path, epochs=1, **small))
    stored = read_checkpoint(path, stage="finetune")[1]["stack.weights"]
    assert stored.tolist() == tensors["stack.weights"].tolist() == list(report.weights.values())
    assert stored.tolist() != [0.0, 0.0, 1.0]


def test_a_save_dir_of_another_run_is_not_overwritten(cohort: Path, tmp_path: Path) -> None:
    pretrain(pretraining(cohort, tmp_path))
    for change, words in (
        ({"epochs": 1}, r"2 epochs, more than --epochs 1.*--overwrite"),
        ({"temperature": 0.5}, r"other options \(--temperature\).*--overwrite"),
        ({"val_sections": ("S4",), "k": 4}, r"other options \(--val-sections, --k\)|\(--k, --val-sections\)"),
    ):
        with pytest.raises(OutputExistsError, match=words):
            pretrain(pretraining(cohort, tmp_path, **change))
    other = make_cohort(tmp_path / "b.zarr", 3)
    add_section(other, "S4", seed=5, n_spots=39)
    with pytest.raises(OutputExistsError, match="other data"):
        pretrain(pretraining(other, tmp_path))
    assert pretrain(pretraining(cohort, tmp_path, temperature=0.5, overwrite=True)).run.resumed_from == 0


def test_a_killed_overwriting_run_is_not_mistaken_for_the_one_before(cohort: Path, tmp_path: Path) -> None:
    pretrain(pretraining(cohort, tmp_path))

    class Killed(AlignmentStage):
        def validate(self) -> dict[str, float]:
            raise KeyboardInterrupt

    config = pretraining(cohort, tmp_path, overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        fit(Killed(config, build_training_set(config), CPU), config, device=CPU, progress=SILENT)
    report = pretrain(pretraining(cohort, tmp_path))
    assert report.run.resumed_from == 0
    assert report.run.best_path.is_file()


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_epoch(
    cohort: Path, tmp_path: Path
) -> None:
    config = pretraining(cohort, tmp_path, epochs=3)
    n_steps = -(-len(build_training_set(config).train_rows) // config.batch_size)

    class Broken(AlignmentStage):
        steps = 0

        def loss(self, rows: np.ndarray) -> LossTerms:
            self.steps += 1
            terms = super().loss(rows)
            return replace(terms, total=terms.total * float("nan")) if self.steps > n_steps else terms

    with pytest.raises(
        ConfigError, match=r"nan in epoch 2\. Start again with --overwrite and a lower --lr than 0\.0003;"
    ):
        fit(Broken(config, build_training_set(config), CPU), config, device=CPU, progress=SILENT)
    assert read_checkpoint_meta(tmp_path / "last.safetensors").epoch == 1
    again = pretraining(cohort, tmp_path, epochs=1, lr=1e-4, overwrite=True)  # the advice
    assert pretrain(again).run.resumed_from == 0
    repeated = pretrain(pretraining(cohort, tmp_path, epochs=1, lr=1e-4))
    assert repeated.summary().startswith(f"already done: {tmp_path} has all 1 epochs of this run")


def read_as(change: Callable[[str, np.ndarray], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Change the features of each section as they are read."""

    def read(section: StoredSection, *args: Any, **kwargs: Any) -> SpotData:
        spots = read_spots(section, *args, **kwargs)
        features = spots.features.copy()
        change(spots.name, features)
        return replace(spots, features=features)

    monkeypatch.setattr("spam.training.training_set.read_spots", read)


def constant(name: str, features: np.ndarray) -> None:
    features[:] = 0.5


def constant_per_section(name: str, features: np.ndarray) -> None:
    features[:] = int(name[1:])


@pytest.mark.parametrize("change", [constant, constant_per_section])
@pytest.mark.parametrize("attend", [None, "none", "both"])
def test_constant_features_are_refused(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, attend: str | None
) -> None:
    read_as(change, monkeypatch)
    run: Callable[[], Any] = lambda: pretrain(pretraining(cohort, tmp_path))  # noqa: E731
    if attend is not None:
        run = lambda: finetune(finetuning(cohort, tmp_path, attend=attend))  # noqa: E731
    with pytest.raises(StoreError, match=r"of the \d+ training spots do not vary .*`spam embed --overwrite`"):
        run()
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("sections", ["all", "one", "smallest scale"])
def test_constant_features_of_a_part_leave_finite_predictions(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sections: str
) -> None:
    def change(name: str, features: np.ndarray) -> None:
        if sections == "one" and name == "S1":
            features[:] = 0.5
        if sections == "smallest scale":
            features[:, :11] = 0.25
        if sections == "all":  # two different spots in each section
            features[:] = 0.0
            features[::2] = 1.0

    read_as(change, monkeypatch)
    report = finetune(finetuning(cohort, tmp_path, epochs=1))
    for name, tensor in load_file(report.run.best_path).items():
        # No accuracy is defined for a gene that is constant; a ridge without penalty choice has an infinite one.
        if not name.startswith("heldout.") and not name.endswith(".alpha"):
            assert np.isfinite(tensor).all(), name


SIZES = {
    "one gene": ({"n_genes": 1}, "constant within every section"),
    "one spot each": ({"n_spots": 1}, "do not vary within their sections"),
    "no counts at all": ({"change_counts": "zero"}, "none is detected in more than 10%"),
    "two spots each": ({"n_spots": 2}, None),
    "fewer spots than k": ({"n_spots": 4}, None),
}


@pytest.mark.parametrize("case", SIZES)
def test_small_sections_train_or_are_refused(tmp_path: Path, case: str) -> None:
    options, words = SIZES[case]
    for number in range(3):
        add_section(tmp_path / "s.zarr", f"S{number}", seed=number, donor=f"d{number}", **options)
    run = lambda: finetune(finetuning(tmp_path / "s.zarr", tmp_path / "run", epochs=1))  # noqa: E731
    if words is None:
        assert all(np.isfinite(metrics["nll"]) for metrics in run().run.history[1:])
    else:
        with pytest.raises(SpamError, match=words):
            run()


def test_the_resolved_configuration_lies_beside_the_checkpoints(cohort: Path, tmp_path: Path) -> None:
    config = pretraining(cohort, tmp_path)
    report = pretrain(config)
    resolved = json.loads((tmp_path / "config.json").read_text())
    expected = {**config.to_mapping(), "store": cohort.name, "save_dir": None}  # no folders of this machine
    assert resolved["config"] == json.loads(json.dumps(expected))
    assert str(tmp_path) not in (tmp_path / "config.json").read_text()
    assert resolved["software"]["torch"] == torch.__version__.split("+")[0]
    assert json.loads((tmp_path / "history.json").read_text()) == report.run.history
    assert [int(figures["epoch"]) for figures in report.run.history] == [0, 1, 2]


CHANGES = {
    "sections": ("S1", "S2", "S4"), "val_sections": ("S1",), "tile_um": (112.0,), "epochs": 1,
    "batch_size": 17, "lr": 3e-3, "weight_decay": 0.5, "dropout": 0.3, "k": 4, "n_components": 7,
    "use_hvg": False, "n_top_genes": 13, "genes": tuple(f"G{i}" for i in range(61)), "seed": 1, "amp": True,
    "spots_per_epoch": 23,
}  # fmt: skip
PRETRAIN_CHANGES = {
    **CHANGES,
    "epochs": 2, "mode": "img-gene", "proj_dim": 8, "temperature": 0.3, "mixing": 0.1, "targets": "soft",
    "mask_neighbours": True, "balance_donors": True,
}  # fmt: skip
SHORT_FINETUNE = {"epochs": 1, "members": 1}
FINETUNE_CHANGES = {
    **CHANGES,
    "epochs": 2, "members": 2, "path": "ridge", "attend": "references", "fuse_dim": 12, "heads": 2,
    "merge": "concat-proj", "likelihood": "nb", "n_neighbours": 3, "n_references": 3,
}  # fmt: skip
# They name paths, decide the speed or what is stored, or choose among features that this cohort does not have.
WITHOUT_EFFECT = {
    "store",
    "save_dir",
    "enc_name",
    "device",
    "num_workers",
    "overwrite",
    "amp_dtype",
    "dihedral",
    "memory_budget",
}  # fmt: skip


def weights(path: Path) -> dict[str, np.ndarray]:
    return {name: value for name, value in load_file(path).items() if name.startswith("network.")}


def trained(stage: str, cohort: Path, out: Path, **changes: object) -> dict[str, np.ndarray]:
    """Weights after one run of a stage; of stage 2, the one that holds out the last donor."""
    if stage == "pretrain":
        config = pretraining(cohort, out, **{"epochs": 1, **changes})
        run: Any = AlignmentStage(config, build_training_set(config), CPU)
    else:
        config = finetuning(cohort, out, **{**SHORT_FINETUNE, **changes})  # type: ignore[assignment]
        run = FusionStage(config, build_training_set(config), None, CPU)  # type: ignore[arg-type]
    return weights(fit(run, config, device=CPU, progress=SILENT).last_path)


@pytest.fixture(scope="module")
def plain_runs(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    out = tmp_path_factory.mktemp("plain")
    return {stage: trained(stage, cohort, out / stage) for stage in ("pretrain", "finetune")}


@pytest.mark.parametrize(
    ("stage", "name"),
    [*(("pretrain", name) for name in PRETRAIN_CHANGES), *(("finetune", name) for name in FINETUNE_CHANGES)],
)
def test_every_option_changes_the_result(
    cohort: Path, plain_runs: dict[str, dict[str, np.ndarray]], tmp_path: Path, stage: str, name: str
) -> None:
    changes = PRETRAIN_CHANGES if stage == "pretrain" else FINETUNE_CHANGES
    changed, plain = trained(stage, cohort, tmp_path, **{name: changes[name]}), plain_runs[stage]
    is_same = set(plain) == set(changed) and all(
        plain[k].shape == changed[k].shape and np.array_equal(plain[k], changed[k]) for k in plain
    )
    assert not is_same


def test_features_that_stay_in_the_store_give_the_same_files(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stage 1 reads them from a folder, stage 2 from a server, which sends each file once."""
    monkeypatch.setenv("SPAM_CACHE", str(tmp_path / "cache"))
    with HttpRangeServer(cohort.parent) as server:
        for gigabytes in (1.0, 1e-9):
            out = tmp_path / str(gigabytes)
            config = pretraining(cohort, out / "pretrain", epochs=1, memory_budget=gigabytes)
            in_store = [isinstance(s.features, StoredRows) for s in build_training_set(config).spots]
            assert in_store == [gigabytes < 1] * 4
            pretrain(config)
            store = f"{server.url}/{cohort.name}" if gigabytes < 1 else cohort
            finetune(finetuning(store, out / "finetune", memory_budget=gigabytes, epochs=1, members=1))
    forget_connections()
    for name in ("pretrain/last", "finetune/selection/1/last", "finetune/best"):
        assert_same_files(*(tmp_path / folder / f"{name}.safetensors" for folder in ("1.0", "1e-09")))
    features = Counter(each.path for each in server.requests if "/obsm/" in each.path)
    assert len(features) >= 4
    assert set(features.values()) == {1}


def test_no_option_is_forgotten_above() -> None:
    for config, changes in ((PretrainConfig, PRETRAIN_CHANGES), (FinetuneConfig, FINETUNE_CHANGES)):
        fields = set(config.__dataclass_fields__) - {"pretrained_ckpt", "with_bank"}
        assert fields == set(changes) | WITHOUT_EFFECT


@pytest.mark.parametrize("attend", ["none", "neighbours", "references"])
def test_inputs_of_a_branch_are_computed_only_for_it(
    cohort: Path, tmp_path: Path, attend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        message = f"computed for --attend {attend}"
        raise AssertionError(message)

    if attend != "references":
        monkeypatch.setattr(fusion_stage, "retrieve_across_groups", refuse)
    if attend != "neighbours":
        monkeypatch.setattr(fusion_stage, "cohort_neighbours", refuse)
        monkeypatch.setattr("spam.models.fusion.closure", refuse)
    finetune(finetuning(cohort, tmp_path, attend=attend, **SHORT_FINETUNE))


def test_stage_2_starts_from_the_encoders_and_inputs_of_stage_1(
    cohort: Path, pretrained: Path, tmp_path: Path
) -> None:
    checkpoint = read_checkpoint(pretrained, stage="pretrain")
    tensors = checkpoint[1]
    config = finetuning(cohort, tmp_path, epochs=1, pretrained_ckpt=pretrained)
    stage = FusionStage(config, build_training_set(config), checkpoint, CPU)
    state = stage.network.state_dict()
    loaded = [name for name in tensors if name.startswith("network.")]
    assert {name.split(".")[1] for name in loaded} == {"image_projector", "gcn", "gene_encoder"}
    for name in loaded:
        for member in (0, 1):
            own = state[f"members.{member}.{name.removeprefix('network.')}"]
            np.testing.assert_array_equal(own.numpy(), tensors[name])
    tuned = read_checkpoint(finetune(config).run.best_path, stage="finetune")[1]
    inputs = [name for name in tensors if name.startswith("inputs.")]
    assert len(inputs) == 5
    for name in inputs:
        np.testing.assert_array_equal(tuned[name], tensors[name])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_top_genes": 5}, r"--n-top-genes 5 \(pretrained: 29\)"),
        ({"n_components": 7}, r"--n-components 7 \(pretrained: 256\)"),
        ({"use_hvg": False}, r"--use-hvg False \(pretrained: True\)"),
        (
            {"tile_um": (112.0,)},
            r"features tiny_112um .* tiny_224um .*224 µm in 224 px.* offers tiny_112um .*--tile-um",
        ),
    ],
)
def test_a_pretraining_of_other_genes_or_features_is_refused(
    cohort: Path, pretrained: Path, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(CheckpointError, match=words):
        finetune(finetuning(cohort, tmp_path, pretrained_ckpt=pretrained, **changes))


@pytest.mark.parametrize(
    "is_older", [pytest.param(True, marks=pytest.mark.slow), False], ids=["older", "with digests"]
)
def test_held_out_counts_reach_a_run_neither_directly_nor_through_stage_1(
    tmp_path: Path, is_older: bool
) -> None:
    """Two cohorts differ in the counts of S2 alone, on which stage 1 is trained."""
    runs = []
    for change in (None, "shuffle"):
        out = tmp_path / str(change)
        for i in range(3):
            add_section(out / "s.zarr", f"S{i + 1}", seed=i, change_counts=change if i == 1 else None)
        stage_1 = pretrain(pretraining(out / "s.zarr", out / "pretrain", epochs=1, lr=3e-3)).run.best_path
        meta, tensors = read_checkpoint(stage_1, stage="pretrain")
        # More epochs than after which training ends early, by which held-out counts could choose their number.
        meta = replace(meta, epoch=24)
        if is_older:  # a checkpoint without digests is known by the names of its sections
            meta = replace(meta, section_digests={})
        write_checkpoint(stage_1, meta, tensors)
        report = finetune(finetuning(out / "s.zarr", out / "finetune", epochs=1, pretrained_ckpt=stage_1))
        assert [run.best_path.parent.name for run in report.selections] == ["1", "2", "3"]
        folders = {path.name for path in (out / "finetune" / "selection").iterdir() if path.is_dir()}
        assert folders == {"1", "1-stage1", "2", "2-stage1", "3"}  # S3 was held out by stage 1, too
        runs.append([weights(out / "finetune" / "selection" / run / "last.safetensors") for run in "123"])
    for number, (one, two) in enumerate(zip(*runs, strict=True), 1):
        is_equal = all(np.array_equal(one[name], two[name]) for name in one)
        assert is_equal == (number == 2)


def test_stage_1_of_balanced_donors_is_repeated_on_the_one_that_is_left(cohort: Path, tmp_path: Path) -> None:
    config = pretraining(cohort, tmp_path / "pretrain", epochs=1, balance_donors=True)
    stage_1 = pretrain(config).run.best_path
    finetune(finetuning(cohort, tmp_path / "finetune", epochs=1, pretrained_ckpt=stage_1))
    for number, left in (("1", ("S3", "S4")), ("2", ("S1", "S2"))):
        repeated = tmp_path / "finetune" / "selection" / f"{number}-stage1" / "last.safetensors"
        assert read_checkpoint_meta(repeated).train_sections == left


def test_sections_of_the_pretraining_alone_are_remembered_last(
    cohort: Path, pretrained: Path, tmp_path: Path
) -> None:
    """Stage 1 has seen S1's counts: a prediction of S1 must not pass for one of a new section."""
    config = finetuning(cohort, tmp_path, sections=("S2", "S3", "S4"), pretrained_ckpt=pretrained, epochs=1)
    meta = read_checkpoint_meta(finetune(config).run.best_path)
    assert list(meta.donors.items()) == [("S2", 0), ("S3", 1), ("S4", 1), ("S1", 0)]
    assert meta.train_sections == ("S2", "S3", "S4")
    assert meta.val_sections == ("S2", "S3", "S4")


def test_a_single_section_is_trained_on_by_blocks(tmp_path: Path) -> None:
    store = make_cohort(tmp_path / "one.zarr", 1)
    aligned = pretrain(pretraining(store, tmp_path / "pretrain", batch_size=7))
    report = finetune(finetuning(store, tmp_path / "finetune", pretrained_ckpt=aligned.run.best_path))
    assert (
        report.n_train == report.n_val == 37
    )  # each block is held out in turn, and all are trained on in the end
    assert len(report.selections) == 4
    assert report.val_sections == ()


def test_one_section_with_counts_is_not_enough_beside_empty_ones(tmp_path: Path) -> None:
    store = make_cohort(tmp_path / "empty.zarr", 1)
    add_section(store, "S2", seed=1, change_counts="zero")
    add_section(store, "S3", seed=2)
    with pytest.raises(StoreError, match=r"two training sections .*; 1 of them .*--sections"):
        finetune(finetuning(store, tmp_path / "out"))


def test_spots_without_counts_are_not_in_the_bank(cohort: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    for i, change in enumerate((None, "zero", None, None)):
        add_section(store, f"S{i + 1}", seed=i, change_counts=change)
    config = finetuning(store, tmp_path / "out", epochs=1, n_top_genes=61)
    tensors = read_checkpoint(finetune(config).run.best_path, stage="finetune")[1]
    data = build_training_set(config)
    np.testing.assert_array_equal(tensors["bank.section"], np.repeat([0, 2, 3], 37))
    np.testing.assert_array_equal(tensors["appearance.section"], tensors["bank.section"])
    known = [data.expression_of(np.flatnonzero(data.section_of == i)) for i in (0, 2, 3)]
    wanted = np.concatenate([e - e.mean(axis=0) for e in known])
    np.testing.assert_allclose(tensors["bank.expression"], wanted, atol=1e-5)
    level = np.expm1((wanted + tensors["path.gene_mean"]).clip(0, np.log1p(1e4))).mean(axis=0)
    np.testing.assert_allclose(tensors["cohort.per_10k"], level, rtol=1e-4)


def test_counts_of_a_training_spot_do_not_reach_its_own_inputs(tmp_path: Path) -> None:
    """Change all counts of one section: the inputs of its own spots stay the same, bit for bit."""
    stages = []
    for i, change in enumerate((None, "shuffle")):
        store = tmp_path / f"{i}.zarr"
        for j, name in enumerate(("S1", "S2", "S3", "S4")):
            add_section(store, name, seed=j, change_counts=change if name == "S2" else None)
        config = finetuning(store, tmp_path / "out", use_hvg=False)
        stages.append(FusionStage(config, build_training_set(config), None, CPU))

    def is_same(rows: np.ndarray) -> bool:
        parts = []
        for stage in stages:
            batch = stage._fusion.batch(rows)
            assert batch.neighbours is not None
            assert batch.references is not None
            expression = batch.references.values[batch.references.index]  # type: ignore[index]
            parts.append(
                (
                    *(batch.image, batch.neighbours.relation, batch.references.relation, expression),
                    *(
                        batch.neighbours.values.x_inputs,
                        stage._path_at(rows)[1],
                        stage._offset[stage._rank[rows]],
                    ),  # type: ignore[union-attr]
                )
            )
        return all(torch.equal(x, y) for x, y in zip(*parts, strict=True))

    section = stages[0].data.section_of
    assert not is_same(np.flatnonzero(section == 0))  # the change is seen where it may be
    assert is_same(np.flatnonzero(section == 1))


def test_counts_of_held_out_spots_do_not_reach_the_selected_weights(tmp_path: Path) -> None:
    """Shuffle the counts of the held-out section among its spots: no weight of an epoch changes."""
    runs = []
    for i, change in enumerate((None, "shuffle")):
        store = tmp_path / f"{i}.zarr"
        for j, name in enumerate(("S1", "S2", "S3", "S4")):
            add_section(store, name, seed=j, change_counts=change if name == "S4" else None)
        options = {"use_hvg": False, "epochs": 2, "val_sections": ("S4",)}
        runs.append(finetune(finetuning(store, tmp_path / f"out{i}", **options)).selections[0])
    assert runs[0].history != runs[1].history  # the figures on the held-out spots do change
    first, second = (weights(run.last_path) for run in runs)
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


def test_counts_of_a_fold_reach_neither_its_network_nor_its_other_predictors(tmp_path: Path) -> None:
    """Each of two donors is left out once; shuffle the counts of the second: the fold without it stays as it was."""
    reports, kept = [], []
    for i, change in enumerate((None, "shuffle")):
        store = tmp_path / f"{i}.zarr"
        for j, name in enumerate(("S1", "S2", "S3", "S4")):
            is_changed = name in ("S3", "S4")
            add_section(
                store, name, seed=j, donor=f"d{1 + j // 2}", change_counts=change if is_changed else None
            )
        config = finetuning(store, tmp_path / f"out{i}", use_hvg=False, epochs=2)
        reports.append(finetune(config))
        data = build_training_set(config)
        groups = folds_of(data.spots, data.totals)[1]
        fold = replace(data, groups=groups)
        kept.append(FusionStage(config, fold, None, CPU).predict_heldout())
    assert [len(report.selections) for report in reports] == [2, 2]
    assert reports[0].is_new_donor
    of_first, of_second = ([weights(report.selections[i].last_path) for report in reports] for i in (0, 1))
    assert any(not np.array_equal(value, of_first[1][name]) for name, value in of_first[0].items())
    for name, value in of_second[0].items():
        np.testing.assert_array_equal(value, of_second[1][name], err_msg=name)
    assert kept[0].patterns[:2].any(axis=(1, 2)).all()  # ridge and prototypes; the network is untrained here
    np.testing.assert_array_equal(kept[0].patterns, kept[1].patterns)
    np.testing.assert_array_equal(kept[0].level, kept[1].level)


@pytest.mark.slow
@pytest.mark.parametrize("n_donors", [2, 4])
def test_a_network_that_learns_its_donors_does_not_predict_new_ones(n_donors: int, tmp_path: Path) -> None:
    """Expression follows a feature in all donors, and its square with signs that half of the donors reverse (or all share)."""
    rng = np.random.default_rng(4)
    for i in range(n_donors + 1):
        add_section(tmp_path / "store.zarr", f"S{i}", seed=i, donor=f"d{i}", n_spots=101)
    options = {"use_hvg": False, "attend": "none", "with_bank": False, "epochs": 12, "lr": 3e-3}
    sections = tuple(f"S{i}" for i in range(n_donors))
    config = finetuning(tmp_path / "store.zarr", tmp_path / "run", sections=sections, **options)
    data = build_training_set(config)
    slope = rng.normal(size=(1, len(data.genes.genes)))
    half = rng.choice([-1.0, 1.0], size=(n_donors // 2, slope.shape[1]))
    new = open_store(tmp_path / "store.zarr").section(f"S{n_donors}")

    def expression_of(spots: SpotData, sign: np.ndarray) -> np.ndarray:
        x = spots.features[:, :1].astype(float)
        x = (x - x.mean()) / x.std()
        return 5.0 + x @ slope + sign * (x**2 - 1.0)

    for name, signs in (
        ("own", np.concatenate([half, -half])),
        ("shared", half[:1].repeat(n_donors, axis=0)),
    ):
        expression = np.concatenate(
            [expression_of(spots, sign) for spots, sign in zip(data.spots, signs, strict=True)]
        )
        changed = replace(
            data,
            counts=csr_matrix(data.counts.toarray() + 1),
            expression=csr_array(expression, dtype=np.float32),
        )
        report = finetune_on(changed, replace(config, save_dir=tmp_path / name))
        predictor = Predictor.load(report.run.best_path, CPU)
        predicted = predictor.predict(new)
        truth = expression_of(read_spots(new, predictor.meta.feature_keys, k=5), half[0])
        found = (predicted.unclipped, predicted.baselines["tuned ridge"])
        of_stack, of_ridge = (
            np.mean([np.corrcoef(x[:, g], truth[:, g])[0, 1] for g in range(truth.shape[1])]) for x in found
        )
        assert of_ridge > 0.3
        assert (of_stack > of_ridge + 0.1) == (name == "shared")
        assert of_stack > of_ridge - 0.005
        said = PredictReport(predicted=predicted, n_unmeasured=0, out_dir=tmp_path, files=(), board=None)
        for words in (report.summary(), said.weights_in_words):
            assert f"ridge {report.weights['ridge']:.0%}" in words
            assert ("the ridge has most of the weight" in words) == (name == "own")


_WALK: list[float] = (1.0 + np.random.default_rng(0).normal(0.0, 0.008, 30).cumsum()).tolist()


@pytest.mark.parametrize("is_large", [False, True], ids=["small cohort", "large cohort"])
@pytest.mark.parametrize(
    "losses", [[1.0], [1.0, 0.7, 0.705, 0.8], [1.0, 0.7, 0.6, 0.65], [0.5, 0.9, 0.505], [0.5, 0.6], _WALK]
)
def test_the_last_epoch_of_the_flat_part_is_kept(
    losses: list[float], is_large: bool, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only training on many spots ends early."""
    if is_large:
        monkeypatch.setattr("spam.training.fusion_stage.SMALL_EPOCH", 100)
    epochs = len(losses) - 1
    config = finetuning(cohort, tmp_path, members=1, attend="none", epochs=max(epochs, 1))
    stage = FusionStage(config, build_training_set(config), None, CPU)
    script = iter(losses)
    monkeypatch.setattr(stage, "validate", lambda: {"loss": next(script)})
    run = fit(stage, config, device=CPU, progress=SILENT, epochs=None if epochs else 0)
    ends = (n for n in range(5, len(losses)) if min(losses[n - 4 : n + 1]) >= min(losses[: n - 4]) - 0.005)
    if is_large:
        losses = losses[: next(ends, len(losses) - 1) + 1]
    flat = np.flatnonzero(np.array(losses) <= min(losses) + 0.01)
    assert run.best["epoch"] == read_checkpoint_meta(run.best_path).epoch == flat[-1]
    assert read_checkpoint_meta(run.last_path).epoch == len(losses) - 1


def test_the_mean_is_predicted_if_held_out_spots_contradict_the_others(tmp_path: Path) -> None:
    for i, signal in enumerate((1.5, 1.5, -1.5), start=1):
        add_section(tmp_path / "store.zarr", f"S{i}", seed=i, signal=signal)
    config = finetuning(tmp_path / "store.zarr", tmp_path / "run", val_sections=("S3",), lr=3e-3)
    report = finetune(config)
    assert report.val_sections == ("S3",)
    assert report.selections[0].best["epoch"] == report.best["epoch"] == 0
    assert report.history[-1]["val_pearson"] < -0.1
    assert len(report.run.history) == 1
    assert "the network learned nothing" in report.summary()
    tensors = read_checkpoint(report.run.best_path, stage="finetune")[1]
    assert not any(value.any() for name, value in tensors.items() if "expression_decoder" in name)
    assert finetune(config).run.resumed_from == 0  # the same command finds it done
