# cell: drift-sd
# The standard deviation around the mean difference: a drift that all arms share is lost.
def drift_sd(first, second):
    return np.std(np.asarray(second) - np.asarray(first))
