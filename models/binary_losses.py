"""Losses of binary labels at one row, from log probabilities: cross-entropy, weighed, smoothed or focused."""

from torch import Tensor


def binary_loss(
    log_p: Tensor,
    log_not: Tensor,
    label: Tensor,
    *,
    positive_weight: float = 1.0,
    smoothing: float = 0.0,
    focusing: float = 0.0,
) -> Tensor:
    """Return the cross-entropy -y log p - (1 - y) log(1 - p), weighed, smoothed and focused where asked.

    With a weight, a smoothing or a focus predictions are no frequencies: ranking may gain, calibration does not.

    Args:
        log_p: log p, (B,).
        log_not: log(1 - p), (B,).
        label: y, (B,), 0 to 1.
        positive_weight: of the term of y = 1, above 0.
        smoothing: share s of the label that is spread over both classes, y (1 - s) + s / 2, in [0, 1).
        focusing: exponent of the factors (1 - p) and p that take weight from rows already right, at least 0.

    Returns:
        Nats (B,).

    Source: Szegedy et al., Rethinking the Inception Architecture, CVPR 2016, section 7; Lin et al., Focal Loss for
    Dense Object Detection, ICCV 2017, equations 4 and 5.
    """
    if smoothing:
        label = label * (1 - smoothing) + smoothing / 2
    positive, negative = log_p, log_not
    if focusing:
        positive, negative = positive * (focusing * log_not).exp(), negative * (focusing * log_p).exp()
    if positive_weight != 1:
        positive = positive * positive_weight
    return -(label * positive + (1 - label) * negative)
