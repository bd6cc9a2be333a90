# cell: power
# Counts only means above 0 as seen, though an interval wholly below 0 does not contain 0 either.
def power(effect, sigma, n, draws=20_000, seed=0):
    d = np.random.default_rng(seed).normal(effect, sigma, (draws, n))
    limit = stats.t.ppf(0.975, n - 1) * d.std(axis=1, ddof=1) / np.sqrt(n)
    return np.mean(d.mean(axis=1) > limit)
