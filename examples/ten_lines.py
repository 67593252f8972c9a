"""The script that a user would write; model and data come from the Hub."""

from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from itra_hf import ITRAConfig, ITRATrainer

data = load_dataset("fancyzhx/ag_news")
tokenizer = AutoTokenizer.from_pretrained("distilbert/distilbert-base-uncased")
data = data.map(lambda rows: tokenizer(rows["text"], truncation=True, max_length=128), batched=True)
model = AutoModelForSequenceClassification.from_pretrained("distilbert/distilbert-base-uncased", num_labels=4)
trainer = ITRATrainer(
    model=model,
    args=ITRAConfig(output_dir="outputs/ag_news", num_train_epochs=1),
    train_dataset=data["train"],
    eval_dataset=data["test"],
    processing_class=tokenizer,
)
trainer.train()
print(trainer.evaluate())
