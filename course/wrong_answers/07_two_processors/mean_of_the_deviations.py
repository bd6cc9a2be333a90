# cell: seed-sd
# Takes the mean of the standard deviations of the arms, which is smaller than the root of the mean variance.
def seed_sd(scores):
    return np.std(np.asarray(scores), axis=1, ddof=1).mean()
