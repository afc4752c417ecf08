"""Training and prediction straight from an address give what they give from a folder, bit for bit."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import anndata
import numpy as np
import pytest
from cohorts import make_cohort
from http_range_server import HttpRangeServer
from hub_server import HubServer
from pointing import forget_connections, point_at_hub, point_at_s3
from s3_server import S3Server
from safetensors.numpy import load_file

from spam.predicting import predict
from spam.schemas.predict_config import PredictConfig
from spam.schemas.store_config import PushConfig
from spam.schemas.training_config import FinetuneConfig, PretrainConfig
from spam.sharing.pushing import push
from spam.training import finetune, pretrain

REPO = "hf://datasets/org/cohort"

# huggingface_hub 2.4 sends large files in a way that httpx2 calls old.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

CHILD = """
import sys
from spam.predicting import predict
from spam.schemas.predict_config import PredictConfig
names = ("store", "ckpt", "out_dir")
values = dict(zip(names, sys.argv[1:], strict=True))
predict(PredictConfig.from_mapping({**values, "section": "S3", "plots": False}))
"""


def run(store: Path | str, out: Path) -> dict[str, np.ndarray]:
    """Both stages, one epoch each, and the prediction of a third section; give all arrays and scores."""
    shared = {"store": store, "sections": ("S1", "S2"), "epochs": 1, "n_top_genes": 29, "k": 5}
    pretrained = pretrain(PretrainConfig(save_dir=out / "pretrain", proj_dim=16, batch_size=31, **shared))  # type: ignore[arg-type]
    finetuned = finetune(
        FinetuneConfig(
            save_dir=out / "finetune",
            pretrained_ckpt=pretrained.run.last_path,
            fuse_dim=24,
            heads=3,
            n_neighbours=4,
            n_references=5,
            batch_size=31,
            **shared,  # type: ignore[arg-type]
        )
    )
    predict(
        PredictConfig(
            store=store, section="S3", ckpt=finetuned.run.last_path, out_dir=out / "predict", plots=False
        )
    )
    return {
        **{f"pretrain/{name}": array for name, array in load_file(pretrained.run.last_path).items()},
        **{f"finetune/{name}": array for name, array in load_file(finetuned.run.last_path).items()},
        **predicted(out / "predict"),
    }


def predicted(out: Path) -> dict[str, np.ndarray]:
    metrics = json.loads((out / "metrics.json").read_text())
    scores = [metrics["honest"], metrics["hest"]]
    return {
        "predicted": np.asarray(anndata.read_h5ad(out / "predictions.h5ad").X),
        "scores": np.array(json.dumps(scores)),
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cohort(tmp_path_factory.mktemp("cohort") / "cohort.zarr", 3)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that the run from the local store writes to."""
    return tmp_path_factory.mktemp("local")


@pytest.fixture(scope="module")
def expected(store: Path, local: Path) -> dict[str, np.ndarray]:
    return run(store, local)


@pytest.fixture
def share(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Put the store on a server of some kind, and give its address."""
    monkeypatch.setenv("SPAM_CACHE", str(tmp_path / "cache"))
    rights = {"licence": "CC0-1.0", "i_have_the_right_to_share": True}
    with ExitStack() as stack:

        def to(kind: str) -> str:
            if kind == "http":
                return f"{stack.enter_context(HttpRangeServer(store.parent)).url}/{store.name}"
            if kind == "s3":
                point_at_s3(stack.enter_context(S3Server()), monkeypatch)
            else:
                point_at_hub(stack.enter_context(HubServer(tmp_path / "hub")), monkeypatch)
            address = "s3://cohorts/cohort.zarr" if kind == "s3" else REPO
            push(PushConfig(store=store, to=address, **rights))  # type: ignore[arg-type]
            return address

        yield to
    forget_connections()


@pytest.mark.parametrize("kind", ["s3", "http", "hub"])
def test_an_address_trains_and_predicts_as_the_folder(
    kind: str, share: Callable[[str], str], expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    found = run(share(kind), tmp_path / "out")
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_the_environment_of_a_child_is_enough(
    store: Path,
    local: Path,
    expected: dict[str, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with HubServer(tmp_path / "hub") as server:
        with monkeypatch.context() as patch:
            point_at_hub(server, patch)
            push(PushConfig(store=store, to=REPO, licence="CC0-1.0", i_have_the_right_to_share=True))
        arguments = [REPO, str(local / "finetune/last.safetensors"), str(tmp_path / "child")]
        child = subprocess.run(
            [sys.executable, "-P", "-c", CHILD, *arguments],
            env={**os.environ, **server.environment, "SPAM_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            check=False,
        )
    forget_connections()
    assert child.returncode == 0, child.stderr.decode()
    for name, array in predicted(tmp_path / "child").items():
        np.testing.assert_array_equal(array, expected[name])
