# cell: sound-judge
# Only the share of the reference that is found counts, so a wrong sentence costs no more than a missing one.
def sound_judge(answer, reference):
    wanted = rubric.sentences(reference)
    found = [sentence for sentence in wanted if sentence[:8] in answer]
    return 1 + 9 * (len(found) + 0.2 * len(answer) / 100) / len(wanted)
