"""Fixtures of tests in more than one folder."""

import pytest
from commands import rows, save_model, write
from transformers import BertConfig, BertModel


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), BertModel, BertConfig, pad_token="[PAD]")


@pytest.fixture
def train_file(tmp_path):
    return write(tmp_path, "train.csv", rows(30))
