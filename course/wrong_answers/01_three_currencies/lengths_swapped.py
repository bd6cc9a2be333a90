# cell: long-samples-for
# The two lengths change places: long samples would have to be many, because each has many tokens.
def long_samples_for(p, long_length, short_length):
    return p * long_length / (p * long_length + (1 - p) * short_length)
