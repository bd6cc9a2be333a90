# cell: passes-at
# The first number of ranks at which sorted is faster, although packing may be faster again later.
def passes_at(lengths, ranks, barrier):
    for number in ranks:
        if speed("sorted", lengths, number, barrier) >= speed("packing", lengths, number, barrier):
            return number
    return None
