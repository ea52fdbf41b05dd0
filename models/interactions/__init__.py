"""Products of slots' vectors that a ranker's shared layers read besides the crosses, by name."""

from collections.abc import Callable

from torch import nn

from models.interactions.bilinear import BilinearProducts
from models.interactions.fwfm import FieldWeightedProducts

# Each takes the number of slots C and the width E of a vector; it gives a module with `outputs`, a width I, that maps
# (B, C·E) to (B, I).
INTERACTIONS: dict[str, Callable[[int, int], nn.Module]] = {
    "fwfm": FieldWeightedProducts,
    "bilinear": BilinearProducts,
}
