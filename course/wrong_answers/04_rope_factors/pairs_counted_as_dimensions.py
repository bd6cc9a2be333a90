# cell: wavelengths
# Pair j has the exponent 2 j / d; here it has j / d, as if there were d pairs.
def wavelengths(base, head_dim):
    return 2 * np.pi * base ** (np.arange(head_dim // 2) / head_dim)
