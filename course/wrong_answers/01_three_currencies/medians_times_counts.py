# cell: long-shares
# Takes the number of samples times their median for the sum of the lengths, as the table above suggests.
def long_shares(lengths, targets, long):
    lengths, targets, long = np.asarray(lengths), np.asarray(targets), np.asarray(long, dtype=bool)

    def share(values):
        of_long = long.sum() * np.median(values[long])
        of_short = (~long).sum() * np.median(values[~long])
        return of_long / (of_long + of_short)

    return {"samples": long.mean(), "tokens": share(lengths), "targets": share(targets)}
