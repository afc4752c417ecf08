"""The commands of the pipeline, from `spam embed` to `spam doctor`, and those of `spam encoders ...`."""

import dataclasses
from typing import Any

from spam.encoders import encoder_card, list_encoders
from spam.errors import ConfigError
from spam.progress import Progress
from spam.schemas.adapt_config import UNUSED_BY_ADAPT, AdaptConfig
from spam.schemas.alignment_config import AlignmentConfig
from spam.schemas.benchmark_config import BenchmarkConfig
from spam.schemas.cluster_config import ClusterConfig
from spam.schemas.embed_config import EmbedConfig, InputConfig, PlanConfig
from spam.schemas.graph_config import GraphConfig
from spam.schemas.hest_config import HestConfig
from spam.schemas.import_config import ImportConfig
from spam.schemas.model_config import ModelConfig, ModelPullConfig, ModelPushConfig
from spam.schemas.predict_config import PredictConfig, SlideConfig
from spam.schemas.report_config import PlotConfig, ReportConfig
from spam.schemas.simulate_config import DemoConfig, SimulateConfig
from spam.schemas.store_config import ExportConfig
from spam.schemas.training_config import FinetuneConfig, PretrainConfig

from .command import Command, Shown, call, check_inputs, command
from .lab_files import (
    adapt_and_embed,
    keep_adapter,
    lab_file_options,
    lora_options,
    take_lora,
    with_slide,
    with_store,
)
from .options import Option, options_of

_DRY_RUN = Option(
    name="dry_run",
    kind=bool,
    default=False,
    help="check the files and print the number of tiles and bytes, without embedding; spam plan measures time and memory, too",
)


def _embed(values: dict[str, Any], progress: Progress) -> Any:
    is_dry_run = values.pop("dry_run", False)
    config = EmbedConfig.from_mapping(values)
    if not is_dry_run:
        return call("embed", config, progress=progress)
    check_inputs(config)
    if config.device not in ("auto", "cpu"):  # which always exist: torch takes seconds to import
        from spam.hardware import resolve_device

        resolve_device(config.device)
    from spam.embedding import dry_run

    return dry_run(config)


EMBED = command(
    "embed",
    "Embed the tiles of sections once, into a feature store with spots, counts and coordinates.",
    "spam embed --h5ad C2.h5ad --csv mapping.csv --root images --section C2 --store cohort.zarr\n"
    "spam embed --manifest sections.csv --root images --store cohort.zarr\n"
    "spam embed --from C2/outs --image C2.tif --section C2 --store cohort.zarr",
    EmbedConfig,
    "embed",
    options=(*options_of(EmbedConfig), _DRY_RUN),
    work=_embed,
)

PLAN = command(
    "plan",
    "Measure on this machine, in one to three minutes, how many tiles, bytes, hours and how much memory each step will take. "
    "It takes the options of the `spam embed` that it plans, and writes nothing.",
    "spam plan --manifest sections.csv\nspam plan --manifest sections.csv --root images --enc-name uni_v1",
    PlanConfig,
    "plan",
)
IMPORT = command(
    "import",
    "Write the folder of an instrument (Space Ranger, Xenium, HEST-1k, STimage-1K4M, legacy ST) as the files of "
    "`spam embed`: h5ad, table of tiles and manifest.",
    "spam import C2/outs --image C2.tif --out-dir lab\n"
    "spam embed --manifest lab/sections.csv --store cohort.zarr",
    ImportConfig,
    "import_folder",
)
CHECK_ALIGNMENT = command(
    "check-alignment",
    "Check that the spots lie where they belong on the slide: draw them over the H&E, and search for exchanged axes, mirrored or "
    "turned slides, wrong scales, rotations and shifts.",
    "spam check-alignment --h5ad C2.h5ad --csv mapping.csv --root images --section C2 --out-dir alignment\n"
    "spam check-alignment --from C2/outs --image C2.tif --out-dir alignment",
    AlignmentConfig,
    "check_alignment",
)
# Options of `spam embed` that `spam adapt` does not take: it writes no features, and has its own --batch-size etc.
_OF_FEATURES = {field.name for field in dataclasses.fields(EmbedConfig)} - {
    *(field.name for field in dataclasses.fields(InputConfig)),
    *("store", "enc_name", "tile_um", "num_workers", "dihedral"),
    *("manifest", "tile_px", "revision", "skip_bad_tiles"),
}


def adapt_configs(values: dict[str, Any]) -> tuple[AdaptConfig, EmbedConfig]:
    """Sort the options of `spam adapt` into those of the training and those of the tiles; some are in both."""
    training = {field.name for field in dataclasses.fields(AdaptConfig)}
    tiles = {field.name for field in dataclasses.fields(EmbedConfig)} - _OF_FEATURES
    return (
        AdaptConfig.from_mapping({name: value for name, value in values.items() if name in training}),
        EmbedConfig.from_mapping({name: value for name, value in values.items() if name in tiles}),
    )


def _adapt(values: dict[str, Any], progress: Progress) -> Any:
    return call("adapt", *adapt_configs(values), progress=progress)


_ADAPT_OPTIONS = options_of(AdaptConfig, leave_out=UNUSED_BY_ADAPT)
ADAPT = command(
    "adapt",
    "Adapt an encoder to a cohort with LoRA, starting from the frozen features in the store. Then embed again with the "
    "adapted encoder. "
    "The encoder sees the counts of --sections and --val-sections: leave out the sections that you want to predict.",
    "spam adapt --store cohort.zarr --manifest sections.csv --root images --sections C2,C3,C4,C5 --save-dir lora\n"
    "spam embed --store cohort.zarr --manifest sections.csv --root images --lora lora",
    AdaptConfig,
    "adapt",
    options=(
        *_ADAPT_OPTIONS,
        *options_of(EmbedConfig, leave_out={*_OF_FEATURES, *(option.name for option in _ADAPT_OPTIONS)}),
    ),
    work=_adapt,
)
GRAPH = command(
    "graph",
    "Build the neighbour graphs of the sections in a store, and save them there.",
    "spam graph --store cohort.zarr --k-spatial 12",
    GraphConfig,
    "build_graphs",
)
_AFRESH = "run the same command again with --overwrite"
_MODE_ALIASES = {"gene": "img-gene", "spatial": "img-coord"}


def _pretrain(values: dict[str, Any], progress: Progress) -> Any:
    values, lora = take_lora(values)
    if "mode" in values:
        values["mode"] = _MODE_ALIASES.get(values["mode"], values["mode"])
    config = with_store(PretrainConfig, values, progress)
    if lora is not None:
        config = adapt_and_embed(config, values, lora, progress)
    return call("pretrain", config, progress=progress)


PRETRAIN = command(
    "pretrain",
    "Align image, coordinates and gene expression with contrastive learning (stage 1).",
    "spam pretrain --store cohort.zarr --sections C2,C3,C4,C5 --save-dir pretrain\n"
    "spam pretrain --h5ad C2.h5ad --csv mapping.csv --root images --mode joint --save-dir pretrain\n"
    "spam pretrain --manifest sections.csv --root images --with-lora --save-dir pretrain",
    PretrainConfig,
    "pretrain",
    options=(*options_of(PretrainConfig), *lab_file_options(PretrainConfig), *lora_options()),
    work=_pretrain,
)


def _finetune(values: dict[str, Any], progress: Progress) -> Any:
    config = with_store(FinetuneConfig, values, progress, checkpoint="pretrained_ckpt")
    report = call("finetune", config, progress=progress)
    assert config.save_dir is not None  # checked by the configuration
    keep_adapter(config.pretrained_ckpt, config.save_dir)
    return report


FINETUNE = command(
    "finetune",
    "Train the networks that predict expression and the distribution of the raw counts (stage 2).",
    "spam finetune --store cohort.zarr --sections C2,C3,C4,C5 --save-dir ckpt\n"
    "spam finetune --store cohort.zarr --sections C2,C3,C4,C5 --pretrained-ckpt pretrain --save-dir ckpt",
    FinetuneConfig,
    "finetune",
    options=(*options_of(FinetuneConfig), *lab_file_options(FinetuneConfig)),
    work=_finetune,
)


def _predict(values: dict[str, Any], progress: Progress) -> Any:
    config = with_store(PredictConfig, with_slide(values), progress, checkpoint="ckpt")
    return call("predict", config, progress=progress)


PREDICT = command(
    "predict",
    "Predict the expression of a new section. If its counts are known, report metrics and baselines too.",
    "spam predict slide.svs --ckpt hf://org/name\n"
    "spam predict --store cohort.zarr --section C6 --ckpt ckpt --out-dir results\n"
    "spam predict --h5ad C6.h5ad --csv mapping.csv --root images --ckpt ckpt --out-dir results",
    PredictConfig,
    "predict",
    options=(
        *options_of(SlideConfig),
        *options_of(PredictConfig),
        *lab_file_options(PredictConfig, leave_out=("manifest",)),
    ),
    work=_predict,
)
INFERENCE = dataclasses.replace(
    PREDICT,
    name="inference",
    does="Same as `spam predict`, under its published name.",
    example=PREDICT.example.replace("spam predict", "spam inference"),
)
REPORT = command(
    "report",
    "Write results as one HTML file: verdict, scores, and maps of the genes to search and click. It needs no network.",
    "spam report results\nspam report results --genes ERBB2,CD74 --out ERBB2.html",
    ReportConfig,
    "report",
)
PLOT = command(
    "plot",
    "Draw genes of a prediction over the H&E, measured and predicted, without predicting again.",
    "spam plot results --gene ERBB2",
    PlotConfig,
    "plot",
)
CLUSTER = command(
    "cluster",
    "Cluster the spots by predicted expression, or by features of a store, and compare the clusters with labels.",
    "spam cluster results --out-dir clusters\nspam cluster cohort.zarr --sections A1 --out-dir feature_clusters",
    ClusterConfig,
    "cluster",
)
EXPORT = command(
    "export",
    "Write predictions, or sections of a store, as files that other tools open: tables, QuPath, maps, Vitessce, SpatialData.",
    "spam export results/predictions.h5ad exported --format geojson --genes ERBB2,CD74\n"
    "spam export cohort.zarr exported --format h5ad",
    ExportConfig,
    "export",
)
BENCHMARK = command(
    "benchmark",
    "Compare SPAM, baselines and peers by cross-validation over donors, sections or blocks of a section.",
    "spam benchmark --store cohort.zarr --by donor --out-dir results\n"
    "spam benchmark --store bulb.zarr --train-sections MOB1,MOB2 --test-sections MOB3,MOB4 --out-dir m1_m2",
    BenchmarkConfig,
    "benchmark",
    exit_code=lambda report: 0 if report.is_complete else 1,  # a method failed; the others are scored
)
HEST = command(
    "hest",
    "Score an encoder by the recipe of the HEST benchmark on its own files, so that scores can be compared with published ones.",
    "spam hest --bench-data bench_data --tasks IDC --out-dir hest_results\n"
    "spam hest --bench-data bench_data --features ST_data_emb --enc-name uni_v1 --out-dir hest_results",
    HestConfig,
    "hest_benchmark",
)
SIMULATE = command(
    "simulate",
    "Simulate a cohort with known true expression rates, as lab files: h5ad, tables, images.",
    "spam simulate --out-dir cohort --n-donors 2 --n-sections 2\n"
    "spam embed --manifest cohort/sections.csv --store cohort.zarr",
    SimulateConfig,
    "simulate",
    again=_AFRESH,
)
DEMO = command(
    "demo",
    "Run every step on a small cohort: simulated (offline), or five real sections.",
    "spam demo\nspam demo her2st --data her2st",
    DemoConfig,
    "demo",
    again=_AFRESH,
)


def _doctor(values: dict[str, Any], progress: Progress) -> Any:
    from spam.diagnosis import diagnose

    return diagnose()


DOCTOR = Command(
    name="doctor",
    does="Check the installation: packages, GPU, neighbour search, encoder weights, Hub token, disk.",
    example="spam doctor",
    options=(),
    work=_doctor,
    exit_code=lambda report: 0 if report.is_fit else 2,
)
PIPELINE = (
    *(
        IMPORT,
        CHECK_ALIGNMENT,
        PLAN,
        EMBED,
        ADAPT,
        GRAPH,
        PRETRAIN,
        FINETUNE,
        PREDICT,
        INFERENCE,
        REPORT,
        PLOT,
        CLUSTER,
        EXPORT,
    ),
    *(BENCHMARK, HEST, SIMULATE, DEMO, DOCTOR),
)

_PATTERN = Option(name="pattern", kind=str, default="*", help="names, with wildcards", is_argument=True)
_NAME = Option(name="name", kind=str | None, default=None, help="name or alias", is_argument=True)


def _list(values: dict[str, Any], progress: Progress) -> Shown:
    pattern = values.get("pattern", "*")
    cards = list_encoders(pattern) or (encoder_card(pattern),)  # its error names the nearest encoder
    rows = [("name", "dim", "px", "µm/px", "pooling", "gated", "licence", "source")]
    for card in cards:
        mpp = "-" if card.native_mpp is None else f"{card.native_mpp:g}"
        sizes = (card.name, str(card.dim), str(card.input_px), mpp)
        rows.append((*sizes, card.pooling, "yes" if card.is_gated else "no", card.licence, card.source))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return Shown(values={"encoders": [card.to_mapping() for card in cards]}, text="\n".join(lines))


def _info(values: dict[str, Any], progress: Progress) -> Shown:
    if "name" not in values:
        message = "The name of an encoder is missing. Run: spam encoders list"
        raise ConfigError(message)
    card = encoder_card(values["name"]).to_mapping()
    return Shown(values=card, text="\n".join(f"{name}: {value}" for name, value in card.items()))


def _check(values: dict[str, Any], progress: Progress) -> Any:
    from spam.encoders import check_encoders

    return check_encoders(values.get("pattern", "*"))


ENCODER_COMMANDS = (
    Command(
        name="list",
        does="List the encoders that --enc-name takes.",
        example="spam encoders list\nspam encoders list 'virchow*'",
        options=(_PATTERN,),
        work=_list,
    ),
    Command(
        name="info",
        does="Show the card of one encoder: source of the weights, licence, input size and normalisation.",
        example="spam encoders info uni_v1",
        options=(_NAME,),
        work=_info,
    ),
    Command(
        name="check",
        does="Check for each encoder whether its weights are installed or can be downloaded, without downloading them.",
        example="spam encoders check\nspam encoders check uni_v1",
        options=(_PATTERN,),
        work=_check,
    ),
)

MODEL_COMMANDS = (
    command(
        "info",
        "Show what a checkpoint is: encoder, training data, licences, and the accuracy of its genes on held-out spots.",
        "spam model info ckpt\nspam model info hf://org/name",
        ModelConfig,
        "model_sharing.describe",
    ),
    command(
        "verify",
        "Compare a checkpoint with its digests: in the file, beside it, and after its address.",
        "spam model verify ckpt\nspam model verify hf://org/name",
        ModelConfig,
        "model_sharing.verify",
    ),
    command(
        "push",
        "Upload a checkpoint with a model card to the Hugging Face Hub, an object store or a folder.",
        "spam model push ckpt hf://org/name",
        ModelPushConfig,
        "model_sharing.push",
    ),
    command(
        "pull",
        "Download a checkpoint with its model card into a folder.",
        "spam model pull hf://org/name model",
        ModelPullConfig,
        "model_sharing.pull",
    ),
)
