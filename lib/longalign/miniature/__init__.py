"""The generated miniature of the paper's data: documents with exact answers, from words up to token stores.

lexicon, styles -> world (facts) -> tasks, documents -> samples -> suites; tokenizer stands beside them.
"""
