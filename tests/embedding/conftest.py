"""A cohort whose frozen features are in the store, and one short run on it."""

import pytest
from adaptation_lab import make_cohort_files, training

from spam.embedding import adapt, embed
from spam.embedding.adapting import AdaptReport
from spam.schemas.embed_config import EmbedConfig


@pytest.fixture(scope="session")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> EmbedConfig:
    config = make_cohort_files(tmp_path_factory.mktemp("cohort") / "lab")
    embed(config)
    return config


@pytest.fixture(scope="session")
def adapted(tiles: EmbedConfig, tmp_path_factory: pytest.TempPathFactory) -> AdaptReport:
    return adapt(training(tiles, tmp_path_factory.mktemp("adapted") / "lora"), tiles)
