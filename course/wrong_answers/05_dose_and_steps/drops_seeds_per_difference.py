# cell: decompose
# Takes for each difference the seeds that have its two arms, so the parts need not add up to the total.
def decompose(by_seed, more, less, less_equal):
    def difference(one, other):
        return (by_seed[one] - by_seed[other]).dropna().mean()

    return {
        "steps": difference(less_equal, less),
        "dose": difference(more, less_equal),
        "total": difference(more, less),
    }
