"""Fixtures of tests in more than one folder."""

import pytest
from commands import save_model
from transformers import BertConfig, BertModel


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), BertModel, BertConfig, pad_token="[PAD]")
