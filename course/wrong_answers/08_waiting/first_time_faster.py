# cell: passes-at
# The first number of ranks at which sorted is as fast, although it may be slower again later.
def passes_at(lengths, ranks, barrier):
    for number in ranks:
        if speed("sorted", lengths, number, barrier) >= speed("packing", lengths, number, barrier):
            return number
    return None
