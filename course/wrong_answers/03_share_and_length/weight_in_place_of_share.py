# cell: shares
# The weight of one token, and not the share of the sequence.
def shares(N, exponent):
    power = np.where(N > 0, np.maximum(N, 1.0) ** (exponent - 1), 0.0)
    return power / power.sum()
