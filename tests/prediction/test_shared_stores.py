"""A collaborator gets one packed file, and no image: training and prediction from it are those of the one who sent it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch
from cohorts import add_section

from spam.errors import CheckpointError
from spam.predicting import predict
from spam.prediction import Predictor
from spam.schemas.predict_config import PredictConfig
from spam.schemas.store_config import PackConfig
from spam.store.packing import pack
from spam.store import StoredSection, open_store
from spam.store.sealing import write_sealed


def predicted(store: Path, checkpoint: Path, out: Path) -> np.ndarray:
    predict(PredictConfig(store=store, section="S4", ckpt=checkpoint, out_dir=out, plots=False))
    return np.asarray(anndata.read_h5ad(out / "predictions.h5ad").X)


def test_a_packed_store_trains_and_predicts_in_another_folder(
    store: Path, checkpoint: Path, train_on: Callable[[Path, str], Path], tmp_path: Path
) -> None:
    pack(PackConfig(store=store, out=tmp_path / "sent.zarr.zip"))
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    shutil.move(tmp_path / "sent.zarr.zip", theirs)
    packed = theirs / "sent.zarr.zip"
    found = train_on(packed, "zinb")
    assert found.is_relative_to(theirs)
    np.testing.assert_array_equal(
        predicted(packed, found, theirs / "out"), predicted(store, checkpoint, tmp_path / "ours")
    )


def test_features_of_other_tiles_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    """The name of the features is the same; what they say of their tiles is not."""
    add_section(tmp_path / "s.zarr", "X")
    index = tmp_path / "s.zarr" / "X" / "zarr.json"
    document = json.loads(index.read_bytes())
    node = document["consolidated_metadata"]["metadata"]["obsm/tiny_112um"]
    node["attributes"]["spam"]["meta"]["tile"]["out_px"] = 448
    write_sealed(index, document)
    section: StoredSection = open_store(tmp_path / "s.zarr").section("X")
    words = (
        r"'tiny_112um' of section 'X' .*'out_px': 448.* are not those the checkpoint was trained on .*"
        r"'out_px': 224.*`spam embed --store .*s\.zarr --enc-name tiny --tile-um 112 .*--overwrite`"
    )
    with pytest.raises(CheckpointError, match=words):
        Predictor.load(checkpoint, torch.device("cpu")).predict(section)
