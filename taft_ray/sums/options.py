"""Options of a composition that decisions need without torch."""

COMPOSITIONS = ("gram", "mean", "joint")
DEFAULT_COMPOSITION = "gram"  # of deltas: the best of these without a choice of λ, whatever the network is
DEFAULT_EPSILON = 0.02
JOINT_PENALTY = 0.01  # λ; not the fits' own, which may be 0: the composed layers have other pictures to answer for
