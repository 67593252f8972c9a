"""R-Drop, supervised contrast and averaged weights, under the name by which comparisons have known them.

They are in the package now, with other rivals: `itra_hf.comparison.rivals`.
"""

from itra_hf.comparison.rivals import AveragedTrainer, RDropTrainer, SupConTrainer

__all__ = ["AveragedTrainer", "RDropTrainer", "SupConTrainer"]
