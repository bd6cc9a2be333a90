# cell: another-loss
# Two numbers that differ are called another loss, also where one is a constant multiple of the other.
def another_loss(losses, means):
    return not np.allclose(losses, means, rtol=1e-5)
