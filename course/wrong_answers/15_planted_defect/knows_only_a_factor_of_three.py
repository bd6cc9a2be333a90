# cell: another-loss
# Knows only the factor of this exercise's wrong K, three packs, and takes any other for another loss.
def another_loss(losses, means):
    losses, means = np.asarray(losses), np.asarray(means)
    return not (np.allclose(losses, means, rtol=1e-6) or np.allclose(3 * losses, means, rtol=1e-6))
