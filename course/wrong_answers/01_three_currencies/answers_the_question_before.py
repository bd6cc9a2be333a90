# cell: long-samples-for
# Takes p for the share of the samples and returns the share of the tokens, which is the question the other way.
def long_samples_for(p, long_length, short_length):
    return p * long_length / (p * long_length + (1 - p) * short_length)
