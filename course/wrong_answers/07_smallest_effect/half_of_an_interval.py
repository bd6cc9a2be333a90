# cell: smallest-effect
# An effect as large as half of the interval is seen only every second time.
def smallest_effect(sigma, n):
    return stats.t.ppf(0.975, n - 1) * sigma / np.sqrt(n)
