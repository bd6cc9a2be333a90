# cell: sound-judge
# Only the share of the reference that is found counts, so needless sentences cost nothing.
def sound_judge(answer, reference):
    given, wanted = rubric.sentences(answer), rubric.sentences(reference)
    return 1 + 9 * sum(sentence in given for sentence in wanted) / len(wanted)
