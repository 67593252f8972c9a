"""Settings of in-training representation alignment."""

from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from transformers import TrainingArguments

from .config_checks import AlignmentSetting, Companion, WeightMode, check_alignment_arguments
from .losses.kernels import Kernel
from .losses.mmd import ClassWeighting, Estimator
from .presets import KnowsGoneNames, preset_settings

Config = TypeVar("Config", bound="AlignmentArguments")


def setting(text: str, default: Any = None) -> Any:
    """A field of a configuration, with its help."""
    return field(default=default, metadata={"help": text})


@dataclass
class AlignmentArguments(KnowsGoneNames):
    """The method's own settings, to be mixed into any `TrainingArguments` dataclass.

    `ITRAConfig` is `AlignmentArguments` with `TrainingArguments`; write
    `class MyConfig(AlignmentArguments, MyTrainingArguments)` to extend arguments of your own. The meaning,
    default and valid values of each field stand in its `help` text.

    Raises:
        ValueError: a field has a value that is not allowed; the message names the field, the value and what
            is allowed.
    """

    matching_weight: float = setting(
        "How much the matching loss counts, >= 0. With weight_mode 'rising' (up to 10) and 'balanced' (up to 100; 0.1 "
        "is a good start) the share of the pull on the features that weight_mode says, with 'constant' (up to 1e6; "
        "start at 0.1 or less) the factor of the matching loss. 0 switches the method off.",
        1.0,
    )
    weight_mode: WeightMode = setting(
        "What the matching loss's pull on the features follows, by way of running averages of gradient norms: 'rising' "
        "a tenth of the pull that the task loss has, and from the fourth epoch on what that has lost since it was "
        "largest, so that what is still being learnt is left alone; 'balanced' the pull that the task loss has, and "
        "fades with it; 'constant' nothing: it adds matching_weight times the matching loss, which can collapse the "
        "features.",
        "rising",
    )
    alignment: AlignmentSetting = setting(
        "'conditional' aligns class by class; 'joint' aligns (feature, label) pairs and suits float and multi-label "
        "targets too; 'marginal' aligns the features whatever their labels. 'auto' is decided by the first labelled "
        "batch: 'conditional' for one class id an example, 'joint' for floats and several labels, 'marginal' where the "
        "matching loss has no joint form or there are no labels of an example.",
        "auto",
    )
    class_weighting: ClassWeighting = setting(
        "Of conditional alignment: 'size' weighs a class by n m / (n + m) of its examples in the two batches, so that "
        "one of few examples counts less; 'alike' gives each class that both batches hold the same weight.",
        "size",
    )
    matching_loss: str = setting(
        "The distance of the two batches' features: 'mmd' (maximum mean discrepancy), or a function of yours by name, "
        "'package.module:function' or 'file.py:function', of two batches of features [n, dim] and [m, dim] that "
        "returns a scalar. Only 'mmd' has 'joint' alignment and the settings that are of the MMD.",
        "mmd",
    )
    estimator: Estimator = setting(
        "Of the MMD: 'biased' (V-statistic) makes features compact, 'unbiased' (U-statistic) has expectation 0.",
        "biased",
    )
    kernel: Kernel = setting(
        "Of the MMD: 'gaussian', 'laplacian' (sharper near 0) or 'inverse_multiquadric' (its pull reaches far modes).",
        "gaussian",
    )
    bandwidth: str = setting(
        "Of the MMD: the kernel's squared length scale: a positive number, or 'mean' or 'median' of the squared "
        "distances between the features of the two batches.",
        "mean",
    )
    companion: Companion = setting(
        "Where the companion batch comes from: 'sample' draws it independently from the training set, 'class_matched' "
        "draws for each example one of its class; 'split' halves the primary batch, and 'memory' keeps the features of "
        "past batches, both without a second forward pass. 'auto' is 'sample', or 'memory' where there can't be a "
        "second batch, which the log then says: with a data loader of your own, a stream that may be readable only "
        "once, sharded weights, batch normalisation, and fewer than two examples.",
        "auto",
    )
    memory_size: int = setting(
        "companion 'memory': how many past features it holds, >= 2: of all processes together, or with gather_features "
        "False of each.",
        256,
    )
    companion_buffer_size: int = setting(
        "Streaming training sets: how many examples a companion is drawn from, >= 1. They are read before the first "
        "step and kept in memory.",
        1000,
    )
    companion_decay: float | None = setting(
        "companion 'sample' and 'class_matched' only: the decay of the running average of the weights that the "
        "companion batch runs through, without gradient and dropout, from 0 to below 1. 0.97 looks back 32 optimizer "
        "steps. None: the one that looks back a quarter of the planned run, or to its start. 0: no average; the "
        "companion runs through the weights themselves, with gradient.",
    )
    gather_features: bool = setting(
        "Several processes: True aligns the features of all processes together, as one process with the whole batch "
        "would; False lets each process align its own, and sends no features around.",
        True,
    )
    feature: str = setting(
        "Which features to align: 'auto' (input of the last linear layer), 'cls', 'mean' or 'last' (pooled hidden "
        "states of the backbone), or the name of a module, whose input is taken.",
        "auto",
    )
    eval_compactness: bool = setting(
        "Whether evaluation also measures how compact the features are (eval_compactness_*), and training starts with "
        "such a measurement. For one class an example.",
        False,
    )
    gradient_noise_steps: int = setting(
        "Every how many optimizer steps to measure the variance of the mini-batch gradient and what a step does to the "
        "loss of a held-out batch, >= 1; 0: never. A measurement costs about as much as three steps.",
        0,
    )

    @classmethod
    def paper(cls: type[Config], output_dir: str | None = None, *, matching_weight: float, **settings: Any) -> Config:
        """The plain published method (Li et al., AAAI 2023, arXiv 2211.13332), to compare with the publication.

        Each batch is aligned with an independent one of the training set, with gradient through both, by a Gaussian
        kernel; classes count alike, and the matching loss is added with a constant weight.

        Args:
            output_dir: of `TrainingArguments`.
            matching_weight: the factor of the matching loss, which is yours to choose.
            **settings: any other fields; those that the preset sets are overridden.

        Raises:
            ValueError: see the class.

        Example:
            >>> from itra_hf import ITRAConfig
            >>> config = ITRAConfig.paper("out", matching_weight=0.05, report_to="none")
            >>> config.companion, config.companion_decay, config.weight_mode, config.class_weighting
            ('sample', 0.0, 'constant', 'alike')
        """
        settings["matching_weight"] = matching_weight
        if output_dir is not None:
            settings["output_dir"] = output_dir
        defaults = {each.name: each.default for each in fields(cls)}
        return cls(**preset_settings("paper", settings, beneath=defaults), **settings)

    def __post_init__(self) -> None:
        """Checks the fields, after the checks of the dataclass that this one is mixed into."""
        if hasattr(super(), "__post_init__"):
            super().__post_init__()  # type: ignore[misc]
        check_alignment_arguments(self)
        # A search casts its values to the type that is there, and would cut 0.7 to the integer 0.
        self.matching_weight = float(self.matching_weight)
        self.companion_decay = None if self.companion_decay is None else float(self.companion_decay)


@dataclass
class ITRAConfig(AlignmentArguments, TrainingArguments):
    """`TrainingArguments` with the settings of in-training representation alignment.

    Every field of `TrainingArguments` keeps its name, meaning and default, and `HfArgumentParser` reads all
    of them. The method's fields are those of `AlignmentArguments`.

    Example:
        >>> from itra_hf import ITRAConfig
        >>> config = ITRAConfig(output_dir="out", matching_weight=0.2, alignment="joint", report_to="none")
        >>> config.matching_weight, config.weight_mode
        (0.2, 'rising')
    """
