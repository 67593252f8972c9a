"""What users are told while a run aligns, or can't."""

COMPANION_LOST = (
    "A training batch came without its companion: a data loader or collator of your own dropped it. Build the loader "
    "with super().get_train_dataloader(), or set companion='memory' or matching_weight=0 in an ITRAConfig."
)
OWN_LOSS = (
    "{} may compute a loss of its own, so primary and companion batch run through it one after the other, which is "
    "slower than together."
)
FROZEN = "The features need no gradient (frozen backbone, or taken inside a checkpointed layer), so they stay."
CHANGED = (
    "compute_loss made {} anew of the primary batch, and the companion batch is as it was collated: features of the "
    "two differ by that too, or are not aligned. Change inputs in the collator or in _prepare_inputs of a Trainer "
    "below ITRAMixin, or set companion='memory' in an ITRAConfig."
)
HIDDEN = (
    "{}.compute_loss hides the one that aligns. Move it into a Trainer subclass of its own, and put ITRAMixin before "
    "that: class MyITRATrainer(ITRAMixin, MyTrainer). Or set matching_weight=0 in an ITRAConfig."
)
NO_LABELS = (
    "A training batch has no labels (looked for {}), so it is aligned by its features alone. Set label_names to the "
    "argument of the model that takes them, or alignment='marginal' in an ITRAConfig if that is meant."
)
NOTHING_TAPPED = (
    "A training batch was not aligned, for compute_loss did not call the model that it was given, or the model ran "
    "without the module that the feature is taken from. Call the model that compute_loss is given, or set in an "
    "ITRAConfig feature to a module that runs for every batch, or matching_weight=0."
)
NOTHING_ALIGNED = (
    "The matching loss has been exactly 0 for {} steps, so nothing is aligned: the batches are too small to "
    "hold examples of one class in both (estimator='unbiased': two in each). Use larger batches, "
    "companion='class_matched' or 'memory' (with a larger memory_size), or alignment='marginal'."
)
LOSS_NOT_USED = (
    "The loss that is trained on is not the one that alignment gave, so nothing is aligned: a compute_loss takes its "
    "outputs alone. Put ITRAMixin before the class that has it among the bases."
)
