"""From lab files to features in a store: what is checked first, what is written, and what a killed run leaves."""

import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import tifffile
import torch
from embedding_lab import N_SPOTS, PX, Lab, files_of, make_lab, write_encoder
from PIL import Image

from spam.embedding import dry_run, embed, planning
from spam.embedding.planning import PlannedSection
from spam.encoders import build_encoder, encoder_card
from spam.errors import ConfigError, EncoderError, MissingInputError, SectionError, StoreError, TileError
from spam.schemas.store_config import ImportFeaturesConfig
from spam.schemas.tile_spec import TileSpec
from spam.sections import read_section
from spam.store import open_store
from spam.store.importing import import_features
from spam.tiles import TileReader, open_slide, tile_reader


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return make_lab(tmp_path)


class Watcher:
    """A progress that notes its tasks and steps."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, int]] = []
        self.steps: list[int] = []

    @contextlib.contextmanager
    def task(self, description: str, total: int):
        self.tasks.append((description, total))
        yield lambda steps=1, *, note="": self.steps.append(steps)


def test_features_are_those_of_the_tiles_one_by_one(lab):
    watcher = Watcher()
    report = embed(lab.config(tile_um=(20.0, 40.0)), progress=watcher)
    section = read_section(lab.config())
    encoder = build_encoder(encoder_card(lab.encoder), device=torch.device("cpu"))
    for um in (20.0, 40.0):
        spec = TileSpec(tile_um=um, out_px=PX)
        with TileReader(section, spec, interpolation="bilinear") as reader:
            one_by_one = np.concatenate([encoder.embed(reader.read(i)[None]) for i in range(N_SPOTS)])
        # A batch is summed in another order than a single tile.
        np.testing.assert_allclose(lab.features(key=f"local-tiny_{um:g}um"), one_by_one, atol=2e-5, rtol=1e-4)
    assert watcher.tasks == [("embed A 20um", N_SPOTS), ("embed A 40um", N_SPOTS)]
    # no batch crosses a chunk: 23 rows in four of at most 7
    assert watcher.steps == [3, 3, 3, 3, 3, 3, 3, 2] * 2
    (about,) = report.sections
    assert (about.name, about.n_spots, about.n_embedded, about.n_present) == ("A", N_SPOTS, 2 * N_SPOTS, 0)
    assert about.keys == ("local-tiny_20um", "local-tiny_40um")
    assert json.loads(json.dumps(report.to_mapping()))["sections"][0]["keys"] == list(about.keys)
    assert all(part in report.summary() for part in ("23 spots with tiles", "46 tiles embedded"))


def test_a_slide_is_opened_once_per_run(lab, monkeypatch):
    opened = []

    def counted(path):
        opened.append(path.name)
        return open_slide(path)

    monkeypatch.setattr(planning, "open_slide", counted)
    monkeypatch.setattr(tile_reader, "open_slide", counted)
    embed(lab.config(tile_um=(20.0, 40.0)))
    embed(lab.config(tile_um=(20.0, 40.0, 60.0)))
    grid = {"h5ad": None, "csv": None, "section": None, "tiles": "grid"}
    embed(lab.config(**grid, store=lab.folder / "grid.zarr"))
    assert opened == ["slide.png"] * 3


def test_tiles_are_read_from_the_local_copy_of_a_slide(lab):
    """The slide is overwritten by zeros once it was copied: whatever is read from it then is black."""
    slide, cache = lab.folder / "images" / "slide.tif", lab.folder / "scratch" / "cache"
    pixels = np.asarray(Image.open(slide.with_suffix(".png")))
    tifffile.imwrite(slide, pixels, tile=(64, 80), photometric="rgb")
    table = (lab.folder / "map.csv").read_text()
    (lab.folder / "map.csv").write_text(table.replace("slide.png", "slide.tif"))
    sizes = {"tile_um": (20.0, 40.0)}
    embed(lab.config(store=lab.folder / "whole.zarr", **sizes))
    copies = []

    class Unplugged:
        @contextlib.contextmanager
        def task(self, description: str, total: int):
            copies.append(list(cache.rglob("slide.tif")))
            with slide.open("r+b") as file:
                file.write(bytes(slide.stat().st_size))
            yield lambda steps=1, *, note="": None

    embed(lab.config(local_cache=cache, **sizes), progress=Unplugged())
    assert files_of(lab.folder / "store.zarr") == files_of(lab.folder / "whole.zarr")
    assert [len(each) for each in copies] == [1, 1]
    assert copies[0] == copies[1]
    assert not cache.parent.exists()


def test_the_store_holds_the_section_and_where_it_came_from(lab):
    embed(lab.config())
    stored = open_store(lab.folder / "store.zarr").section("A")
    section = read_section(lab.config())
    np.testing.assert_array_equal(stored.ids, section.ids)
    np.testing.assert_array_equal(stored.xy_px, section.xy_px)
    np.testing.assert_array_equal(stored.xy_um, section.xy_px * 0.5)
    np.testing.assert_array_equal(stored.counts().toarray(), section.counts.toarray())
    np.testing.assert_array_equal(stored.genes, [f"G{j}" for j in range(5)])
    np.testing.assert_array_equal(stored.obs["label"], section.obs["label"])
    meta = stored.meta
    assert (meta.donor, meta.mpp, meta.mpp_source) == ("D1", 0.5, "option")
    assert (meta.slide_width_px, meta.slide_height_px) == (401, 307)
    assert [(s.role, s.name) for s in meta.sources] == [
        ("h5ad", "A.h5ad"),
        ("csv", "map.csv"),
        ("slide", "slide.png"),
    ]
    assert {"spam-st", "python", "torch", "timm"} <= set(meta.software)
    np.testing.assert_array_equal(
        stored.overview().image, np.asarray(Image.open(lab.folder / "images" / "slide.png"))
    )
    assert stored.overview().scale == 1.0
    features = stored.feature_meta("local-tiny_20um")
    assert (features.dim, features.dtype, features.chunk_rows) == (24, "float32", 7)
    assert features.tile == {"tile_um": 20.0, "tile_px": None, "out_px": PX}
    assert features.encoder["source"] == features.encoder["name"] == "local:tiny"
    everything = files_of(lab.folder / "store.zarr")
    assert not [name for name, content in everything.items() if str(lab.folder).encode() in content]


def test_what_is_complete_is_left_alone(lab):
    assert "already done" not in embed(lab.config()).summary()
    before, watcher = files_of(lab.folder / "store.zarr"), Watcher()
    report = embed(lab.config(), progress=watcher)
    assert report.summary().startswith("already done: ")
    assert watcher.tasks == []
    assert (report.sections[0].n_embedded, report.sections[0].n_present) == (0, N_SPOTS)
    assert files_of(lab.folder / "store.zarr") == before


KILLED = """
import contextlib, os, signal
from pathlib import Path
from spam.embedding import embed
from spam.schemas.embed_config import EmbedConfig

class Killer:
    @contextlib.contextmanager
    def task(self, description, total):
        self.left = {left}
        yield self.advance

    def advance(self, steps=1, *, note=""):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

embed(EmbedConfig.from_mapping({values!r}), progress=Killer())
"""


def _resume(lab, left):
    """Check what an interrupted run left, resume it, and compare with an uninterrupted run."""
    stored = open_store(lab.folder / "store.zarr").section("A")
    assert stored.feature_keys == ()
    assert stored.unfinished_keys == ("local-tiny_20um", "local-tiny_20um_quality")
    watcher = Watcher()
    report = embed(lab.config(), progress=watcher)
    assert watcher.tasks == [("embed A 20um", left)]
    assert (report.sections[0].n_embedded, report.sections[0].n_present) == (left, N_SPOTS - left)
    embed(lab.config(store=lab.folder / "unbroken.zarr"))
    assert files_of(lab.folder / "store.zarr") == files_of(lab.folder / "unbroken.zarr")


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bytes(lab):
    """All runs are new processes: earlier tests of this one may have changed the last bits of sums."""
    values = json.loads(json.dumps(lab.values(), default=str))
    whole = {**values, "store": str(lab.folder / "unbroken.zarr")}
    codes, n_chunks = [], []
    for left, these in ((5, values), (1000, values), (1000, whole)):
        script = KILLED.format(left=left, values=these)
        codes.append(
            subprocess.run([sys.executable, "-P", "-c", script], check=False, timeout=300).returncode
        )
        n_chunks.append(len(list((lab.folder / "store.zarr/A/obsm/local-tiny_20um/c").glob("*/0"))))
    assert codes == [-signal.SIGKILL, 0, 0]
    assert 0 < n_chunks[0] < n_chunks[1]
    assert files_of(lab.folder / "store.zarr") == files_of(lab.folder / "unbroken.zarr")


@pytest.mark.parametrize(("batches", "left"), [(1, 23), (2, 17), (4, 11), (7, 5)])
def test_an_interrupted_run_resumes_to_the_same_bytes(lab, batches, left):
    class Interrupter(Watcher):
        @contextlib.contextmanager
        def task(self, description, total):
            def advance(steps=1, *, note=""):
                self.steps.append(steps)
                if len(self.steps) == batches:
                    raise KeyboardInterrupt

            yield advance

    with pytest.raises(KeyboardInterrupt):
        embed(lab.config(), progress=Interrupter())
    with pytest.raises(StoreError, match=r"--batch-size 3 .* 4 "):
        embed(lab.config(batch_size=4))
    _resume(lab, left)


def test_overwriting_embeds_again_and_keeps_an_unchanged_section(lab):
    embed(lab.config(tile_um=(20.0, 40.0)))
    before = lab.features()
    changed = safetensors.torch.load_file(lab.folder / "tiny" / "model.safetensors")
    changed["norm.weight"] *= 2
    changed["norm.bias"] *= 2
    safetensors.torch.save_file(changed, lab.folder / "tiny" / "model.safetensors")
    with pytest.raises(StoreError, match=r"weights_sha256.*--overwrite"):
        embed(lab.config())
    report = embed(lab.config(overwrite=True))
    assert report.sections[0].n_embedded == N_SPOTS
    np.testing.assert_allclose(lab.features(), 2 * before, rtol=1e-5, atol=1e-6)
    assert open_store(lab.folder / "store.zarr").section("A").feature_keys == (
        "local-tiny_20um",
        "local-tiny_40um",
    )


def _swap_columns(lab):
    table = pd.read_csv(lab.folder / "map.csv")
    table.rename(columns={"x": "y", "y": "x"}).to_csv(lab.folder / "map.csv", index=False)


def _darken_slide(lab):
    path = lab.folder / "images" / "slide.png"
    Image.fromarray(np.asarray(Image.open(path)) // 2).save(path)


@pytest.mark.parametrize(
    ("change", "others", "words"),
    [
        (_darken_slide, {}, r"slide was '[0-9a-f]{12}', is '[0-9a-f]{12}'"),
        (lambda lab: lab.write_h5ad("A", seed=9), {}, "h5ad was '[0-9a-f]{12}'"),
        (lambda lab: lab.write_h5ad("A", seed=0, donor="D2"), {}, r"donor was 'D1', is 'D2'.*h5ad was"),
        (_swap_columns, {}, "coordinates"),
        (lambda lab: None, {"swap_xy": True}, "coordinates"),
        (lambda lab: None, {"mpp": 0.25}, r"--mpp\) was 0\.5, is 0\.25"),
        (lambda lab: None, {"counts_layer": "other"}, "--counts-layer"),
        (lambda lab: None, {"h5ad": None}, r"genes was 5, is 0.*h5ad was '[0-9a-f]{12}', is not given"),
    ],
)
def test_a_section_made_of_something_else_is_refused_or_replaced(lab, change, others, words):
    embed(lab.config())
    before = lab.features()
    change(lab)
    with pytest.raises(StoreError, match=rf"'A'.*{words}.*--overwrite"):
        embed(lab.config(**others))
    np.testing.assert_array_equal(lab.features(), before)
    embed(lab.config(**others, overwrite=True))
    assert dry_run(lab.config(**others)).n_tiles == N_SPOTS


def test_changed_labels_of_regions_are_another_input(lab):
    ring = [[-9, -9], [400, -9], [400, 400], [-9, 400], [-9, -9]]
    path, others = lab.folder / "r.geojson", {"regions": lab.folder / "r.geojson"}

    def write(label):
        geometry = {"type": "Polygon", "coordinates": [ring]}
        properties = {"classification": {"name": label}}
        path.write_text(json.dumps({"type": "Feature", "geometry": geometry, "properties": properties}))

    write("Tumor")
    embed(lab.config(**others))
    assert embed(lab.config(**others)).sections[0].n_present == N_SPOTS
    write("Stroma")
    with pytest.raises(StoreError, match=r"'A'.*obs\['region'\] differs \(--regions\).*--overwrite"):
        embed(lab.config(**others))
    embed(lab.config(**others, overwrite=True))
    assert set(open_store(lab.folder / "store.zarr").section("A").obs["region"]) == {"Stroma"}
    embed(lab.config("B"))
    with pytest.raises(StoreError, match=r"'B'.*obs\['region'\] differs"):
        embed(lab.config("B", **others))


def test_a_table_that_grew_is_no_change(lab):
    embed(lab.config())
    table = pd.read_csv(lab.folder / "map.csv")
    table.assign(section="C").to_csv(lab.folder / "more.csv", index=False)
    pd.concat([table, pd.read_csv(lab.folder / "more.csv")]).to_csv(lab.folder / "map.csv", index=False)
    assert embed(lab.config()).sections[0].n_present == N_SPOTS


def _manifest(lab, rows):
    columns = ["section", "donor", "h5ad", "csv"]
    pd.DataFrame(rows, columns=columns).to_csv(lab.folder / "sections.csv", index=False)
    none = dict.fromkeys(("h5ad", "csv", "section", "donor"))
    return lab.config(manifest=lab.folder / "sections.csv", **none)


def test_a_manifest_embeds_a_cohort(lab):
    config = _manifest(lab, [("B", "D7", "B.h5ad", "map.csv"), ("A", "", "A.h5ad", "map.csv")])
    report = embed(config)
    assert [section.name for section in report.sections] == ["B", "A"]
    store = open_store(lab.folder / "store.zarr")
    assert [store.section(name).meta.donor for name in ("A", "B")] == ["D1", "D7"]
    assert store.section("B").meta.mpp == 0.5  # --mpp holds for every row
    embed(lab.config("B", donor="D7", store=lab.folder / "single.zarr"))
    np.testing.assert_array_equal(lab.features("B"), lab.features("B", store="single.zarr"))


def test_all_sections_are_checked_before_anything_is_written(lab):
    table = pd.read_csv(lab.folder / "map.csv")
    table.loc[N_SPOTS + 4, "x"] = 1e6
    table.to_csv(lab.folder / "bad.csv", index=False)
    rows = [("A", "", "A.h5ad", "map.csv"), ("B", "", "B.h5ad", "bad.csv")]
    with pytest.raises(TileError, match=r"1 of 23 spots.*'B'.*'B4'"):
        embed(_manifest(lab, rows))
    assert not (lab.folder / "store.zarr").exists()
    lab.write_h5ad("Z", seed=3)
    with pytest.raises(SectionError, match=r"(?s)2 sections.*\n- .*'B4'.*\n- .*Z"):
        embed(_manifest(lab, [*rows, ("Z", "", "Z.h5ad", "map.csv")]))
    with pytest.raises(SectionError, match=r"--manifest .*'A'"):
        embed(_manifest(lab, [("A", "", "A.h5ad", "map.csv"), ("", "", "A.h5ad", "map.csv")]))
    with pytest.raises(EncoderError, match="no-such"):
        embed(lab.config(enc_name="no-such"))
    with pytest.raises(ConfigError, match="--mpp"):
        embed(lab.config(mpp=None))
    with pytest.raises(ConfigError, match="--device"):
        embed(lab.config(device="cuda:97"))
    (lab.folder / "images" / "slide.png").unlink()
    with pytest.raises(MissingInputError, match=r"slide\.png"):
        embed(lab.config())
    assert not (lab.folder / "store.zarr").exists()


def test_features_made_differently_are_found_before_any_compute(lab):
    embed(lab.config("B"))
    watcher = Watcher()
    rows = [("A", "", "A.h5ad", "map.csv"), ("B", "", "B.h5ad", "map.csv")]
    config = dataclasses.replace(_manifest(lab, rows), dtype="float16")
    with pytest.raises(StoreError, match=r"dtype 'float32'.*'float16'.*--overwrite"):
        embed(config, progress=watcher)
    assert watcher.tasks == []
    assert open_store(lab.folder / "store.zarr").section_names == ("B",)


def test_a_comma_in_the_name_of_an_encoder_is_refused(lab, tmp_path):
    (lab.folder / "tiny").rename(lab.folder / "my,enc")
    with pytest.raises(ConfigError, match=r"'local:my,enc' has a comma.*--enc-name"):
        embed(lab.config(enc_name=f"local:{lab.folder / 'my,enc'}"))
    assert not (lab.folder / "store.zarr").exists()


def test_planning_writes_nothing_and_counts(lab):
    planned = dry_run(lab.config(tile_um=(20.0, 40.0), dtype="float16"))
    assert not (lab.folder / "store.zarr").exists()
    assert (planned.n_tiles, planned.n_bytes) == (2 * N_SPOTS, 2 * N_SPOTS * 24 * 2)
    assert json.loads(json.dumps(planned.to_mapping()))["sections"] == [
        {
            "name": "A",
            "donor": "D1",
            "n_spots": N_SPOTS,
            "mpp": 0.5,
            "tiles": ["20um", "40um"],
            "join": planned.sections[0].section.join.describe(),
        }
    ]
    assert "46 tiles with local:tiny" in planned.summary()


def test_tile_files_are_embedded_like_their_slide(lab):
    section = read_section(lab.config())
    (lab.folder / "tiles").mkdir()
    names = []
    with TileReader(section, TileSpec(tile_px=40, out_px=40)) as reader:
        for i, spot in enumerate(section.ids):
            names.append(f"{spot}.png")
            Image.fromarray(reader.read(i)).save(lab.folder / "tiles" / names[-1])
    table = pd.DataFrame(
        {"x": section.xy_px[:, 0], "y": section.xy_px[:, 1], "path": names, "spot_id": section.ids}
    )
    table.to_csv(lab.folder / "tiles.csv", index=False)
    files = lab.config(
        csv=lab.folder / "tiles.csv", root=lab.folder / "tiles", store=lab.folder / "tiles.zarr", tile_um=()
    )
    embed(files)
    stored = open_store(lab.folder / "tiles.zarr").section("A")
    assert stored.feature_keys == ("local-tiny_20um",)  # 40 px of 0.5 µm
    assert stored.overview() is None
    assert stored.meta.slide_width_px is None
    embed(lab.config())
    a, b = lab.features(), stored.features("local-tiny_20um")
    # The slide's tiles are centred on fractions of a pixel, the files on whole ones.
    cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.min() > 0.99
    with pytest.raises(TileError, match=r"50um.*100\.0 px"):
        dry_run(dataclasses.replace(files, tile_um=(50.0,), store=lab.folder / "new.zarr"))


def test_every_option_is_honoured(lab):
    embed(lab.config())
    plain = lab.features()
    for others in ({"num_workers": 0}, {"num_workers": 3}):
        embed(lab.config(store=lab.folder / "workers.zarr", overwrite=True, **others))
        np.testing.assert_array_equal(lab.features(store="workers.zarr"), plain)
    embed(lab.config(store=lab.folder / "half.zarr", dtype="float16", overview=False))
    np.testing.assert_array_equal(
        lab.features(store="half.zarr"), plain.astype(np.float16).astype(np.float32)
    )
    assert open_store(lab.folder / "half.zarr").section("A").overview() is None
    embed(lab.config(store=lab.folder / "amp.zarr", amp=True))
    assert (lab.features(store="amp.zarr") != plain).any()
    np.testing.assert_allclose(lab.features(store="amp.zarr"), plain, atol=0.1)
    watcher = Watcher()
    embed(lab.config(store=lab.folder / "b.zarr", batch_size=5, chunk_rows=11), progress=watcher)
    assert watcher.steps == [5, 3, 5, 3, 5, 2]  # 23 rows in three chunks of at most 11
    embed(lab.config(store=lab.folder / "px.zarr", tile_um=(), tile_px=(40,)))
    np.testing.assert_array_equal(lab.features(store="px.zarr", key="local-tiny_40px"), plain)


@pytest.mark.parametrize(
    ("norm_scale", "dtype", "words"),
    [
        (float("nan"), "float32", r"rows 0:6 .*first is row 0"),
        (1e6, "float16", r"rows 0:6 .*float16.*--dtype float32"),
    ],
)
def test_features_that_cannot_be_stored_are_refused(lab, norm_scale, dtype, words):
    encoder = write_encoder(lab.folder / "wild", norm_scale=norm_scale)
    with pytest.raises(StoreError, match=words):
        embed(lab.config(enc_name=encoder, dtype=dtype))
    assert not (lab.folder / "store.zarr").exists()


def test_a_failed_run_leaves_nothing_but_whole_chunks(lab, monkeypatch):
    """A failed first run leaves no store, one that adds a section leaves the store as it was, and whole chunks stay."""
    real = PlannedSection.read_tiles

    def damaged(n_batches):
        def read(*arguments):
            for number, batch in enumerate(real(*arguments)):
                if number == n_batches:
                    message = "the slide is damaged"
                    raise TileError(message)
                yield batch

        return read

    for n_batches in (0, 1):  # a chunk of 6 spots is two batches of 3
        monkeypatch.setattr(PlannedSection, "read_tiles", damaged(n_batches))
        with pytest.raises(TileError, match="damaged"):
            embed(lab.config())
        assert not (lab.folder / "store.zarr").exists()
    monkeypatch.setattr(PlannedSection, "read_tiles", real)
    embed(lab.config("B"))
    before = files_of(lab.folder / "store.zarr")
    monkeypatch.setattr(PlannedSection, "read_tiles", damaged(1))
    with pytest.raises(TileError, match="damaged"):
        embed(lab.config())
    assert files_of(lab.folder / "store.zarr") == before
    monkeypatch.setattr(PlannedSection, "read_tiles", damaged(3))
    with pytest.raises(TileError, match="damaged"):
        embed(lab.config())
    monkeypatch.setattr(PlannedSection, "read_tiles", real)
    watcher = Watcher()
    embed(lab.config(), progress=watcher)
    assert watcher.tasks == [("embed A 20um", N_SPOTS - 6)]


def test_notes_on_the_join_are_logged_before_embedding(lab, caplog):
    table = pd.read_csv(lab.folder / "map.csv").set_index("spot_id")
    adata = anndata.read_h5ad(lab.folder / "A.h5ad")
    shifted = table.loc[adata.obs_names, ["x", "y"]].to_numpy(dtype=float) + np.array([3.0, 0.0])
    adata.obsm["spatial"] = shifted
    adata.write_h5ad(lab.folder / "A.h5ad")
    with caplog.at_level("WARNING", logger="spam.embedding.planning"):
        dry_run(lab.config())
    assert "section A" in caplog.text
    assert "up to 3 px" in caplog.text


def test_a_plan_imports_neither_torch_nor_timm(lab):
    values = json.loads(json.dumps(lab.values(enc_name="efficientnet_lite0"), default=str))
    code = (
        "import sys; from spam.embedding import dry_run; from spam.schemas.embed_config import EmbedConfig;"
        f"print(dry_run(EmbedConfig.from_mapping({values!r})).n_tiles, {{'torch', 'timm'}} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "23 set()"


def test_the_same_section_under_two_names_is_reported(lab, caplog):
    embed(lab.config())
    embed(lab.config("B"))
    assert "counts of" not in caplog.text
    table = pd.read_csv(lab.folder / "map.csv")
    order = np.random.default_rng(0).permutation(N_SPOTS)
    own = table[table["section"] == "A"].assign(section="C")
    adata = anndata.read_h5ad(lab.folder / "A.h5ad")
    for name, rows, words in (
        ("C", np.arange(N_SPOTS), ["its features local-tiny_20um are those of section A"]),
        ("D", order, []),
    ):
        adata[rows][:, [4, 2, 0, 1, 3]].copy().write_h5ad(lab.folder / f"{name}.h5ad")
        own.assign(section=name).to_csv(lab.folder / f"{name}.csv", index=False)
        caplog.clear()
        embed(lab.config(name, csv=lab.folder / f"{name}.csv", donor="D9"))
        for expected in (f"section {name} has the counts of section A", *words):
            assert expected in caplog.text


def test_the_same_section_twice_in_a_manifest_is_reported_before_anything_is_embedded(lab, caplog):
    table = pd.read_csv(lab.folder / "map.csv").drop(columns="section")
    table.to_csv(lab.folder / "map.csv", index=False)
    rows = [(name, "A.h5ad", "map.csv", "images") for name in ("A", "X")]
    pd.DataFrame(rows, columns=["section", "h5ad", "csv", "root"]).to_csv(lab.folder / "m.csv", index=False)
    given = dict.fromkeys(("h5ad", "csv", "root", "section"))
    dry_run(lab.config(**given, manifest=lab.folder / "m.csv"))
    assert "section X has the counts of section A" in caplog.text


@pytest.mark.parametrize("is_known", [True, False])
def test_genes_under_other_names_are_reported_with_the_column_that_matches(lab, caplog, is_known):
    adata = anndata.read_h5ad(lab.folder / "B.h5ad")
    adata.var = pd.DataFrame({"gene_name": adata.var_names}, index=[f"ENSG{i:011d}" for i in range(5)])
    if not is_known:
        del adata.var["gene_name"]
    adata.write_h5ad(lab.folder / "B.h5ad")
    embed(lab.config())
    dry_run(lab.config("B"))
    assert "section B shares only 0 of its 5 gene names with section A" in caplog.text
    assert ("adata.var['gene_name']" if is_known else "Ensembl ids") in caplog.text


def test_a_section_of_imported_features_can_be_embedded(lab):
    """The slide comes second: the section, its counts and the imported features stay as they are."""
    table = pd.read_csv(lab.folder / "map.csv")
    table[table["section"] == "A"].to_csv(lab.folder / "a.csv", index=False)
    features = np.random.default_rng(8).normal(size=(N_SPOTS, 5)).astype(np.float32)
    np.save(lab.folder / "f.npy", features)
    made = {"store": lab.folder / "store.zarr", "h5ad": lab.folder / "A.h5ad", "section": "A", "mpp": 0.5}
    files = {
        "file": lab.folder / "f.npy",
        "coordinates": lab.folder / "a.csv",
        "enc_name": "other",
        "tile_um": 20.0,
    }
    import_features(ImportFeaturesConfig(**made, **files, dtype="float32"))
    embed(lab.config())
    section = open_store(lab.folder / "store.zarr").section("A")
    np.testing.assert_array_equal(section.features("other_20um"), features)
    embed(lab.config(store=lab.folder / "direct.zarr"))
    np.testing.assert_array_equal(lab.features(), lab.features(store="direct.zarr"))
    assert [source.role for source in section.meta.sources] == ["h5ad"]
    lab.write_h5ad("A", seed=9)
    with pytest.raises(StoreError, match="h5ad was"):
        embed(lab.config())
