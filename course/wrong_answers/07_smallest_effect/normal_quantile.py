# cell: power
# The quantile of the normal distribution: with few seeds it is far too small.
def power(effect, sigma, n, draws=20_000, seed=0):
    d = np.random.default_rng(seed).normal(effect, sigma, (draws, n))
    half = 1.96 * d.std(axis=1, ddof=1) / np.sqrt(n)
    return (np.abs(d.mean(axis=1)) > half).mean()
