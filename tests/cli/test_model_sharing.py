"""Checkpoints that travel: push, pull, predictions from an address, digests, the guard and the model card."""

import dataclasses
import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anndata
import fsspec
import numpy as np
import pytest
import yaml
from counting_server import CountingServer
from http_range_server import HttpRangeServer
from hub_server import HubServer
from huggingface_hub import ModelCard
from pointing import forget_connections, point_at_hub, point_at_s3
from s3_server import S3Server
from safetensors.numpy import load_file, save_file

from spam.cli.lab_files import keep_adapter
from spam.embedding import embed
from spam.errors import CheckpointError, OutputExistsError, StoreError
from spam.evaluation import score_predicted
from spam.model_sharing import ModelTransfer, describe, pull, push, verify
from spam.models.checkpoint import read_checkpoint, write_checkpoint
from spam.predicting import predict
from spam.schemas.embed_config import EmbedConfig
from spam.schemas.encoder_card import AdapterCard
from spam.schemas.model_config import ModelConfig, ModelPullConfig, ModelPushConfig
from spam.schemas.predict_config import PredictConfig
from spam.schemas.simulate_config import SimulateConfig
from spam.schemas.training_config import FinetuneConfig, PretrainConfig
from spam.simulation import simulate
from spam.training import finetune, pretrain

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")
SMALL: dict[str, Any] = {"epochs": 1, "n_top_genes": 7, "k": 3, "device": "cpu"}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three simulated sections of three donors, embedded by the default encoder, under a stated licence."""
    folder = tmp_path_factory.mktemp("lab")
    sizes = {"n_donors": 3, "n_sections": 1, "n_spots": 19, "n_genes": 13, "mpp": 2.0}
    simulate(SimulateConfig(out_dir=folder / "cohort", **sizes))
    embed(
        EmbedConfig(
            manifest=folder / "cohort/sections.csv",
            store=folder / "s.zarr",
            licence="cc by 4.0",
            device="cpu",
        )
    )
    return folder


@pytest.fixture(scope="module")
def checkpoint(lab: Path) -> Path:
    config = FinetuneConfig(
        store=lab / "s.zarr", save_dir=lab / "fine", members=1, fuse_dim=12, n_neighbours=2, **SMALL
    )
    return finetune(config).run.best_path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SPAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    yield tmp_path / "cache"
    forget_connections()


class Place:
    """A destination: its address, its files, and its server (none for a folder)."""

    def __init__(self, address: str, server: CountingServer | None) -> None:
        self.address, self.server = address, server

    def files(self) -> dict[str, bytes]:
        if isinstance(self.server, HubServer):
            found = self.server.repositories["org/model"].files
            return {name: data for name, data in found.items() if name != ".gitattributes"}
        files = fsspec.filesystem("file" if self.server is None else "s3")
        files.invalidate_cache()
        root = self.address.removeprefix("s3://")
        return {path.removeprefix(f"{root}/"): files.cat_file(path) for path in files.find(root)}


@pytest.fixture(params=["folder", "s3", "hub"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with ExitStack() as stack:
        if request.param == "folder":
            yield Place(str(tmp_path / "shared"), None)
        elif request.param == "s3":
            bucket = stack.enter_context(S3Server())
            point_at_s3(bucket, monkeypatch)
            yield Place("s3://cohorts/team/model", bucket)
        else:
            hub = stack.enter_context(HubServer())
            point_at_hub(hub, monkeypatch)
            yield Place("hf://org/model", hub)


AT_ADDRESSES = pytest.mark.parametrize("place", ["s3", "hub"], indirect=True)


def pushed(ckpt: Path, to: str, **options: Any) -> ModelTransfer:
    return push(ModelPushConfig(ckpt=ckpt, to=to, **options))


def pulled(address: str, out: Path, **options: Any) -> ModelTransfer:
    return pull(ModelPullConfig(address=address, out=out, **options))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def predicted(lab: Path, ckpt: Path | str, out: Path) -> np.ndarray:
    config = PredictConfig(
        store=lab / "s.zarr", section="D1S1", ckpt=ckpt, out_dir=out, plots=False, device="cpu"
    )
    predict(config)
    found = anndata.read_h5ad(out / "predictions.h5ad")
    provenance = json.loads((out / "metrics.json").read_text())["provenance"]
    assert len(provenance["checkpoint_sha256"]) == 64
    return np.asarray(found.X)


def other_checkpoint(checkpoint: Path, to: Path, **changes: Any) -> Path:
    """Write the checkpoint with other metadata and new digests."""
    meta, tensors = read_checkpoint(checkpoint, stage="finetune")
    write_checkpoint(to, dataclasses.replace(meta, **changes), tensors)
    return to


def test_push_then_pull_is_the_identity(checkpoint, place, tmp_path):
    report = pushed(checkpoint, place.address)
    files = place.files()
    pin = f"'{place.address}#sha256={sha256(checkpoint)}'" if place.server else "shared/best.safetensors"
    assert f"--ckpt {pin}\n" in files["README.md"].decode()
    assert set(files) == {"best.safetensors", "best.safetensors.sha256", "README.md"}
    assert files["best.safetensors"] == checkpoint.read_bytes()
    assert files["best.safetensors.sha256"].decode().split() == [sha256(checkpoint), "best.safetensors"]
    assert str(tmp_path) not in files["README.md"].decode()
    again = pushed(checkpoint, place.address)
    assert "best.safetensors" not in again.files
    assert place.files() == files
    if place.server is None:
        assert report.address == f"{place.address}/best.safetensors"
        return
    assert pulled(report.address, tmp_path / "out").address == str(tmp_path / "out/best.safetensors")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == files
    assert pulled(place.address, tmp_path / "out").files == ()  # all are there
    subprocess.run(["sha256sum", "-c", "best.safetensors.sha256"], cwd=tmp_path / "out", check=True)


@AT_ADDRESSES
def test_predictions_from_an_address_equal_those_of_the_file(lab, checkpoint, place, tmp_path):
    pushed(checkpoint, place.address)
    wanted = predicted(lab, checkpoint, tmp_path / "local")
    np.testing.assert_array_equal(predicted(lab, place.address, tmp_path / "remote"), wanted)
    config = json.loads((tmp_path / "remote/metrics.json").read_text())["config"]
    assert config["ckpt"] == "model"
    assert place.server is not None
    place.server.forget()
    np.testing.assert_array_equal(predicted(lab, place.address, tmp_path / "again"), wanted)
    assert not [path for path in place.server.sent_by_path if path.endswith(".safetensors")]  # it is cached
    place.server.forget()
    pin = f"{place.address}#sha256={sha256(checkpoint)}"
    np.testing.assert_array_equal(predicted(lab, pin, tmp_path / "pinned"), wanted)
    assert place.server.requests == []


def test_predictions_over_http_with_and_without_a_published_digest(lab, checkpoint, tmp_path, caplog):
    web = tmp_path / "web"
    pushed(checkpoint, str(web))
    wanted = predicted(lab, checkpoint, tmp_path / "local")
    with HttpRangeServer(web) as server:
        for number, address in enumerate((server.url, f"{server.url}/best.safetensors")):
            np.testing.assert_array_equal(predicted(lab, address, tmp_path / str(number)), wanted)
        assert caplog.text.count("without a digest") == 0
        assert list(server.sent_by_path).count("/best.safetensors") == 1
        (web / "best.safetensors.sha256").unlink()
        np.testing.assert_array_equal(predicted(lab, server.url, tmp_path / "bare"), wanted)
        assert f"#sha256={sha256(checkpoint)}" in caplog.text
        server.refuse = lambda method, path: 403 if path.endswith(".sha256") else None  # as buckets answer
        np.testing.assert_array_equal(predicted(lab, server.url, tmp_path / "forbidden"), wanted)
        server.refuse = lambda method, path: 403 if path.endswith(".md") else None
        assert "README.md" not in pulled(server.url, tmp_path / "pulled").files
        predicted(lab, server.url.replace("://", "://me:geheim@"), tmp_path / "named")
        text = (tmp_path / "named/metrics.json").read_text()
        assert json.loads(text)["config"]["ckpt"] == ""
        assert "geheim" not in text


def test_nothing_is_fetched_once_results_are_computed(lab, checkpoint, tmp_path, monkeypatch):
    pushed(checkpoint, str(tmp_path / "web"))
    with HttpRangeServer(tmp_path / "web") as server:
        monkeypatch.setattr(
            "spam.predicting.score_predicted",
            lambda *given: setattr(server, "refuse", lambda *_: 404) or score_predicted(*given),
        )
        wanted = predicted(lab, checkpoint, tmp_path / "local")
        server.refuse = None
        np.testing.assert_array_equal(predicted(lab, server.url, tmp_path / "remote"), wanted)
    keep_adapter(server.url, tmp_path / "fine")  # a run that started from there
    assert not (tmp_path / "fine").exists()


def test_a_tampered_checkpoint_is_refused(spam, lab, checkpoint, tmp_path):
    web = tmp_path / "web"
    pin = sha256(checkpoint)
    pushed(checkpoint, str(web))
    served = web / "best.safetensors"

    def refusal(address: str) -> str:
        out = tmp_path / "out"
        words = ("--store", lab / "s.zarr", "--section", "D1S1", "--ckpt", address, "--out-dir", out)
        ran = spam("predict", *words, "--json")
        assert ran.code == 2
        assert not out.exists()
        return str(ran.json["error"])

    with HttpRangeServer(web) as server:
        data = bytearray(served.read_bytes())
        data[-5] ^= 1
        served.write_bytes(data)
        assert "changed or damaged" in refusal(server.url)
        # with digests inside that fit
        other_checkpoint(checkpoint, served, depth=7.0)
        assert f"not {pin[:12]}…" in refusal(server.url)
        # and with a published digest that fits too
        (web / "best.safetensors.sha256").write_text(f"{sha256(served)}  best.safetensors\n")
        assert predicted(lab, server.url, tmp_path / "deceived").shape == (19, 13)
        assert f"not {pin[:12]}…" in refusal(f"{server.url}#sha256={pin}")
        assert "64 hexadecimal digits" in refusal(f"{server.url}#sha256=abc")
        with pytest.raises(StoreError, match="changed or damaged"):
            pulled(f"{server.url}#sha256={pin}", tmp_path / "pulled")
        assert not (tmp_path / "pulled").exists()
    served.write_bytes(data)  # the flipped bit again, on this machine
    with pytest.raises(CheckpointError, match="changed after training"):
        verify(ModelConfig(ckpt=served))
    other_checkpoint(checkpoint, served, depth=9.0)
    for address in (served, served.as_uri()):
        with pytest.raises(StoreError, match="not the file that was published"):
            verify(ModelConfig(ckpt=address))


def test_a_checkpoint_without_a_digest_in_it_is_refused(checkpoint, tmp_path):
    header = {name: value for name, value in metadata(checkpoint).items() if name != "spam_sha256"}
    save_file(load_file(checkpoint), tmp_path / "c.safetensors", metadata=header)
    with pytest.raises(CheckpointError, match="changed after training"):
        verify(ModelConfig(ckpt=tmp_path / "c.safetensors"))


def test_digests_beside_a_file_are_read_as_other_programs_write_them(checkpoint, tmp_path):
    file = shutil.copy(checkpoint, tmp_path / "c.safetensors")
    beside = tmp_path / "c.safetensors.sha256"
    for text in (sha256(file), f"\n{sha256(file).upper()} *c.safetensors\r\n"):
        beside.write_text(text)
        assert verify(ModelConfig(ckpt=file)).compared_with[1:] == ("the digest beside it",)
        with HttpRangeServer(tmp_path) as server:
            address = f"{server.url}/c.safetensors"
            assert verify(ModelConfig(ckpt=address)).compared_with[1:] == ("the digest beside it",)
    for text in ("", "<html>"):
        beside.write_text(text)
        with pytest.raises(StoreError, match="has no digest"):
            verify(ModelConfig(ckpt=file))


@pytest.mark.parametrize(
    "place", ["folder", "s3"], indirect=True
)  # a commit of the Hub holds all files or none
def test_a_push_replaces_a_damaged_file_beside_a_right_digest(checkpoint, place):
    pushed(checkpoint, place.address)
    folder = place.address.removeprefix("s3://")
    fsspec.filesystem("s3" if place.server else "file").pipe_file(f"{folder}/best.safetensors", b"half")
    with pytest.raises(StoreError, match=r"another best\.safetensors.*--overwrite"):
        pushed(checkpoint, place.address)
    pushed(checkpoint, place.address, overwrite=True)
    assert place.files()["best.safetensors"] == checkpoint.read_bytes()


def test_a_pull_keeps_files_of_the_user(checkpoint, tmp_path):
    pushed(checkpoint, str(tmp_path / "web"))
    own = tmp_path / "project/README.md"
    own.parent.mkdir()
    own.write_text("mine")
    with HttpRangeServer(tmp_path / "web") as server:
        with pytest.raises(OutputExistsError, match=r"another README\.md.*--overwrite"):
            pulled(server.url, own.parent)
        assert {path.name: path.read_text() for path in own.parent.iterdir()} == {"README.md": "mine"}
        pulled(server.url, own.parent, overwrite=True)
    assert own.read_bytes() == (tmp_path / "web/README.md").read_bytes()


def test_an_adapter_travels_with_its_checkpoint(spam, checkpoint, tmp_path):
    encoder = {"name": "efficientnet_lite0", "source": "local:x", "dim": 3}
    adapted_on = {"tiles": (), "train_sections": ("D1S1",), "val_sections": ("D1S1",), "genes": ("A",)}
    run: dict[str, Any] = {"epochs": 0, "best_epoch": 0, "history": [], "config": {}, "software": {}}
    content = b"w" + json.dumps({"r": 2}).encode()
    card = AdapterCard(
        encoder=encoder,
        weights_sha256="0" * 64,
        adapter_sha256=hashlib.sha256(content).hexdigest(),
        **adapted_on,
        **run,
    )
    ckpt = other_checkpoint(
        checkpoint,
        tmp_path / "run/best.safetensors",
        encoders=(encoder_named(card.encoder_name, licence="MIT"),),
    )
    adapter = tmp_path / "run/lora"
    adapter.mkdir()
    (adapter / "spam_adapter.json").write_text(json.dumps(card.to_mapping()))
    (adapter / "adapter_config.json").write_text('{"r": 2}')
    (adapter / "adapter_model.safetensors").write_bytes(b"w")
    pushed(ckpt, str(tmp_path / "web"))
    with HttpRangeServer(tmp_path / "web") as server:
        pulled(server.url, tmp_path / "out")
        names = sorted(path.name for path in adapter.iterdir())
        assert {name: (tmp_path / "out/lora" / name).read_bytes() for name in names} == {
            name: (adapter / name).read_bytes() for name in names
        }
        named = server.url.replace("://", "://me:geheim@")
        ran = spam("predict", tmp_path / "run/lora/adapter_config.json", "--ckpt", named)
        assert (ran.code, "geheim" in ran.err, "spam model pull" in ran.err) == (2, False, True), ran.err
        (tmp_path / "web/lora/adapter_config.json").unlink()
        with pytest.raises(StoreError, match=r"lacks the adapter .*adapter_config\.json"):
            pulled(server.url, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_damaged_file_in_the_cache_is_fetched_again(checkpoint, cache, tmp_path):
    pushed(checkpoint, str(tmp_path / "web"))
    with HttpRangeServer(tmp_path / "web") as server:
        found = verify(ModelConfig(ckpt=server.url))
        assert found.sha256 == sha256(checkpoint)
        assert found.compared_with == ("the digest in the file", "the digest beside it")
        (cached,) = (path for path in cache.rglob("*") if path.name == found.sha256)
        cached.write_bytes(b"x")
        pinned = verify(ModelConfig(ckpt=f"{server.url}#sha256={found.sha256}"))
        assert "the digest after the address" in pinned.compared_with
        assert cached.read_bytes() == checkpoint.read_bytes()


def test_a_revision_is_pinned_and_others_are_not_overwritten(lab, checkpoint, tmp_path, monkeypatch):
    other = other_checkpoint(checkpoint, tmp_path / "other/best.safetensors", depth=7.0)
    with HubServer() as hub:
        point_at_hub(hub, monkeypatch)
        first = pushed(checkpoint, "hf://org/model")
        assert hub.repositories["org/model"].is_private
        with pytest.raises(StoreError, match=r"another best\.safetensors.*--overwrite"):
            pushed(other, "hf://org/model")
        second = pushed(other, "hf://org/model", overwrite=True)
        commit = first.address.partition("@")[2].partition("#")[0]
        assert commit in hub.repositories["org/model"].commits
        for address, file in {
            f"hf://org/model@{commit}": checkpoint,
            first.address: checkpoint,
            "hf://org/model": other,
            second.address: other,
        }.items():
            assert describe(ModelConfig(ckpt=address)).sha256 == sha256(file), address
        pulled("hf://org/model", tmp_path / "out")
        with pytest.raises(OutputExistsError, match=r"another .*best\.safetensors.*--overwrite"):
            pulled(first.address, tmp_path / "out")
        pulled(first.address, tmp_path / "out", overwrite=True)
        assert (tmp_path / "out/best.safetensors").read_bytes() == checkpoint.read_bytes()
        point_at_hub(hub, monkeypatch, token=hub.stranger_token)
        with pytest.raises(StoreError, match=r"huggingface\.co/org/model.*private"):
            describe(ModelConfig(ckpt="hf://org/model"))


def test_pushes_to_a_folder_in_a_repository(checkpoint, monkeypatch):
    with HubServer() as hub:
        point_at_hub(hub, monkeypatch)
        report = pushed(checkpoint, "hf://org/model/breast/v1")
        assert "breast/v1/best.safetensors" in hub.repositories["org/model"].files
        assert describe(ModelConfig(ckpt=report.address)).sha256 == sha256(checkpoint)


def encoder_named(name: str = "x", **card: str | None) -> dict[str, str | None]:
    return {"name": name, "weights_sha256": "ab" * 32, **card}


UNI = {"source": "hf-hub:MahmoodLab/UNI", "revision": None, "licence": "CC-BY-NC-ND-4.0"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"licences": {}}, ("section 'D1S1'", "not stated", "--licence")),
        (
            {"licences": {"D1S1": "CC-BY-ND-4.0", "D2S1": "MIT", "D3S1": "MIT"}},
            ("section 'D1S1'", "BY-ND"),
        ),
        (
            {"encoders": (encoder_named(**UNI),)},
            ("MahmoodLab/UNI", "models trained on its outputs", "Section 2(a)(1)(B)"),
        ),
        ({"encoders": (encoder_named(),)}, ("trained weights", "not stated")),
        (
            {"encoders": (encoder_named(**(UNI | {"source": "hf-hub:lab/x", "licence": "House"})),)},
            ("'House'", "unknown to spam"),
        ),
    ],
)
def test_the_guard_refuses_what_licences_forbid(checkpoint, tmp_path, changes, words):
    ckpt = other_checkpoint(checkpoint, tmp_path / "best.safetensors", **changes)
    with pytest.raises(StoreError) as caught:
        pushed(ckpt, str(tmp_path / "shared"))
    assert all(word in str(caught.value) for word in (*words, "--i-have-the-right-to-share"))
    assert not (tmp_path / "shared").exists()
    report = pushed(ckpt, str(tmp_path / "shared"), i_have_the_right_to_share=True)
    assert report.overridden
    assert "### Objections to sharing" in (tmp_path / "shared/README.md").read_text()


def test_a_missing_licence_is_stated_at_the_push(checkpoint, tmp_path):
    ckpt = other_checkpoint(checkpoint, tmp_path / "best.safetensors", licences={"D1S1": "MIT"})
    pushed(ckpt, str(tmp_path / "shared"), licence="cc by 4.0")
    card = (tmp_path / "shared/README.md").read_text()
    assert "| D1S1 | 1 | MIT |" in card
    assert "| D2S1 | 2 | CC-BY-4.0 |" in card


def test_the_card_says_what_the_checkpoint_is(checkpoint, tmp_path):
    pushed(checkpoint, str(tmp_path / "shared"))
    text = (tmp_path / "shared/README.md").read_text()
    header = yaml.safe_load(text.split("---\n", 2)[1])
    assert header == ModelCard(text).data.to_dict()
    assert header["library_name"] == "spam-st"
    assert (header["license"], header["license_name"]) == ("other", "apache-2.0-and-cc-by-4.0")
    meta = json.loads(metadata(checkpoint)["spam"])
    tensors = load_file(checkpoint)
    r = dict(zip(meta["genes"], tensors["heldout.pearson"], strict=True))
    assert "On held-out spots of 3 new donors" in text
    assert f"the median correlation within a section is {np.nanmedian([*r.values()]):.3f};" in text
    assert "Sections: 3. Known donors: 3." in text
    best = max((gene for gene in r if np.isfinite(r[gene])), key=lambda gene: r[gene])
    assert f"| {best} | {r[best]:.2f} |" in text
    assert all(gene in text.split("All: ")[1] for gene in r)
    assert "efficientnet\\_lite0\\_stages" in text
    assert "do not use it for diagnosis" in text
    assert "spam predict slide.svs --ckpt shared" in text
    assert sha256(checkpoint) in text
    found = describe(ModelConfig(ckpt=checkpoint))
    assert found.held_out_pearson == {g: None if np.isnan(v) else pytest.approx(v) for g, v in r.items()}
    # 57 spots are spanned by as many components less one
    assert (found.n_exposed, found.n_new_donors, found.objections) == (57, 3, ())
    assert "expression of 57 training spots" in text
    one = other_checkpoint(checkpoint, tmp_path / "one/best.safetensors", val_sections=("D1S1",))
    assert "On held-out spots of 1 new donor, the" in describe(ModelConfig(ckpt=one)).summary()


def metadata(path: Path) -> dict[str, str]:
    size = int.from_bytes(path.read_bytes()[:8], "little")
    found: dict[str, str] = json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]
    return found


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("https://host/model", "can only be read"),
        ("hf://datasets/org/name", r"not a model of the Hub\. Write hf://org/name"),
        ("hf://org", "not a model"),
        ("{folder}", "the source itself"),
        ("hf://org/name/best.safetensors", "names a file"),
        ("s3://bucket/name#sha256=0", "names a file"),
    ],
)
def test_addresses_that_are_no_places(checkpoint, to, words):
    with pytest.raises(StoreError, match=words):
        pushed(checkpoint, to.format(folder=checkpoint.parent))


def test_unfinished_runs_and_missing_adapters_are_not_shared(checkpoint, tmp_path):
    adapted = other_checkpoint(
        checkpoint,
        tmp_path / "best.safetensors",
        encoders=(encoder_named("efficientnet_lite0-lora-12345678", licence="MIT"),),
    )
    with pytest.raises(StoreError, match="adapter"):
        pushed(adapted, str(tmp_path / "shared"))
    with pytest.raises(CheckpointError, match="stage 'selection'"):
        describe(ModelConfig(ckpt=other_checkpoint(checkpoint, tmp_path / "s", stage="selection")))
    with pytest.raises(StoreError, match="not an address"):
        pulled(str(checkpoint), tmp_path / "out")


def test_missing_repositories_and_files_are_named(tmp_path, monkeypatch):
    with HubServer() as hub:
        point_at_hub(hub, monkeypatch)
        with pytest.raises(StoreError, match=r"huggingface\.co/org/gone"):
            describe(ModelConfig(ckpt="hf://org/gone"))
    (tmp_path / "web").mkdir()
    with (
        HttpRangeServer(tmp_path / "web") as server,
        pytest.raises(StoreError, match=r"has no file 'best\.safe"),
    ):
        describe(ModelConfig(ckpt=server.url))


def test_training_starts_from_a_shared_checkpoint(spam, lab, tmp_path):
    start = pretrain(PretrainConfig(store=lab / "s.zarr", save_dir=tmp_path / "pre", proj_dim=8, **SMALL))
    slide, out = lab / "cohort/images/D1S1.jpg", tmp_path / "out"
    ran = spam("predict", slide, "--mpp", 2, "--ckpt", start.run.best_path, "--out-dir", out)
    assert (ran.code, "needs stage 'finetune'" in ran.err, out.exists()) == (2, True, False), ran.err
    shape: dict[str, Any] = {"members": 1, "fuse_dim": 8, "n_neighbours": 2, "attend": "neighbours"}
    shape |= {"sections": ("D2S1", "D3S1"), "val_sections": ("D3S1",)}
    pushed(start.run.best_path, str(tmp_path / "web"))
    assert "start of `spam finetune`" in (tmp_path / "web/README.md").read_text()
    again = pushed(start.run.best_path, (tmp_path / "web").as_uri())
    assert again.address == f"{(tmp_path / 'web').as_uri()}/best.safetensors"
    assert f"spam finetune --store cohort.zarr --pretrained-ckpt {again.address} " in again.summary()
    trained = {}
    with HttpRangeServer(tmp_path / "web") as server:
        for name, ckpt in {"local": start.run.best_path, "remote": server.url}.items():
            config = FinetuneConfig(
                store=lab / "s.zarr", save_dir=tmp_path / name, pretrained_ckpt=ckpt, **shape, **SMALL
            )
            trained[name] = load_file(finetune(config).run.best_path)
    assert trained["local"].keys() == trained["remote"].keys()
    for name, tensor in trained["local"].items():
        np.testing.assert_array_equal(trained["remote"][name], tensor, err_msg=name)
    found = describe(ModelConfig(ckpt=tmp_path / "remote/best.safetensors"))
    assert found.licences == dict.fromkeys(
        ("D2S1", "D3S1", "D1S1"), "CC-BY-4.0"
    )  # also that of pretraining alone


def test_from_a_slide_to_h5ad_and_report_in_one_command(spam, lab, checkpoint, tmp_path, monkeypatch):
    """The same as placing a grid, embedding and predicting by hand."""
    slide = shutil.copy(lab / "cohort/images/D1S1.jpg", tmp_path / "new.jpg")
    monkeypatch.chdir(tmp_path)
    with HubServer() as hub:
        point_at_hub(hub, monkeypatch)
        pushed(checkpoint, "hf://org/model")
        pin = f"hf://org/model#sha256={sha256(checkpoint)}"
        text = describe(ModelConfig(ckpt=pin)).summary()
        assert text.startswith("# model\n")
        assert f"--ckpt '{pin}'\n" in text
        ran = spam("predict", slide, "--ckpt", "hf://org/model", "--mpp", 2, "--no-plots", "--json")
        assert ran.code == 0, ran.err
        config = json.loads(Path("new_predicted/metrics.json").read_text())["config"]
    assert config["ckpt"] == f"model#sha256={sha256(checkpoint)}"
    embed(EmbedConfig(tiles="grid", root=slide, mpp=2.0, store=tmp_path / "g.zarr", device="cpu"))
    predict(PredictConfig(store=tmp_path / "g.zarr", ckpt=checkpoint, out_dir=tmp_path / "hand", plots=False))
    found, wanted = (anndata.read_h5ad(f"{name}/predictions.h5ad") for name in ("new_predicted", "hand"))
    assert found.n_obs > 5
    np.testing.assert_array_equal(found.X, wanted.X)
    np.testing.assert_array_equal(found.obsm["spatial"], wanted.obsm["spatial"])
    assert Path("new_predicted/report.html").stat().st_size > 100_000
    other = spam("predict", slide, "--ckpt", checkpoint, "--store", tmp_path / "g.zarr")
    assert (other.code, "omit --store" in other.err) == (2, True)


def test_commands_print_what_the_library_returns(spam, checkpoint, tmp_path):
    ran = spam("model", "info", checkpoint)
    assert ran.code == 0, ran.err
    assert "Sections: 3. Known donors: 3." in ran.out
    assert "| D1S1 | 1 | CC-BY-4.0 |" in ran.out
    assert "| efficientnet_lite0_stages |" in ran.out
    assert spam("model", "push", checkpoint, tmp_path / "shared", "--json").json["sha256"] == sha256(
        checkpoint
    )
    with HttpRangeServer(tmp_path / "shared") as server:
        assert spam("model", "pull", server.url, tmp_path / "out").code == 0
    assert "is intact" in spam("model", "verify", tmp_path / "out/best.safetensors").out
