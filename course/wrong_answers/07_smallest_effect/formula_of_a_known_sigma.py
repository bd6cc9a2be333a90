# cell: smallest-effect
# Takes the formula for a known sigma, 1.96 + 0.84 standard errors, which is too small for few seeds.
def smallest_effect(sigma, n):
    return (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * sigma / np.sqrt(n)
