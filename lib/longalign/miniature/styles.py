"""The nine source styles, after the paper's nine sources (arXiv 2401.18058): how a document opens, its
headings and the sentences between its facts.

A style is data. `{adjective}`, `{noun}`, `{place}`, `{preposition}` are filled from the lexicon; no filler names a key.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """One source: its language, title line, section headings and filler sentences."""

    source: str
    language: str
    title: str
    headings: tuple[str, ...]
    fillers: tuple[str, ...]


STYLES = {
    style.source: style
    for style in (
        Style(
            "arxiv",
            "en",
            "Abstract: a study of the {adjective} {noun}.",
            ("Introduction", "Method", "Results", "Discussion"),
            (
                "We report the results in this section.",
                "The {noun} is {adjective} in most cases.",
                "This follows from the model of the {place}.",
                "More work is needed.",
            ),
        ),
        Style(
            "books3",
            "en",
            "The tale of the {adjective} {noun}.",
            ("Chapter one", "Chapter two", "Chapter three", "Chapter four"),
            (
                "The night was {adjective} and long.",
                "Nobody spoke of the {noun}.",
                "They walked {preposition} the {place} until the morning.",
                "It was a {adjective} winter.",
            ),
        ),
        Style(
            "c4",
            "en",
            "Welcome to the page of the {place}.",
            ("News", "Offers", "About us", "Contact"),
            (
                "Visit us {preposition} the {place}.",
                "Our {noun} is {adjective}.",
                "We are open all week.",
                "Read more on this page.",
            ),
        ),
        Style(
            "cluecorpus",
            "zh",
            "{place}的新闻。",
            ("消息", "评论", "图片", "更多"),
            ("今天的天气很好。", "大家都喜欢{noun}。", "欢迎来到{place}。", "我们明天再见。"),
        ),
        Style(
            "commoncrawl",
            "en",
            "Forum of the {place}, page one.",
            ("Topic", "Reply", "Reply again", "Last reply"),
            (
                "Thanks for the answer.",
                "I think the {noun} is {adjective}.",
                "See the pictures below.",
                "Has anyone been to the {place}?",
            ),
        ),
        Style(
            "github",
            "en",
            "Module for the {adjective} {noun}.",
            ("Imports", "Helpers", "Main", "Tests"),
            (
                "This returns the {noun} when it is {adjective}.",
                "Do not change the {noun} here.",
                "The default is {adjective}.",
                "See the notes for the {place}.",
            ),
        ),
        Style(
            "stackexchange",
            "en",
            "How do I clean a {adjective} {noun}?",
            ("Question", "Answer", "Comment", "Edit"),
            (
                "I have tried this before.",
                "The {noun} should be {adjective}.",
                "This works for me.",
                "Where is the {place}?",
            ),
        ),
        Style(
            "wikipedia",
            "en",
            "The {place} is a place with a {adjective} {noun}.",
            ("History", "Geography", "People", "Economy"),
            (
                "It lies {preposition} the {place}.",
                "The {noun} dates from a {adjective} time.",
                "Many people live there.",
                "It is known for its {noun}.",
            ),
        ),
        Style(
            "wudao",
            "zh",
            "关于{noun}的文章。",
            ("历史", "地理", "人物", "文化"),
            ("这里有很多人。", "{place}的人也说{noun}。", "这是很久以前的事。", "人们常常说起{noun}。"),
        ),
    )
}
ENGLISH = tuple(name for name, style in STYLES.items() if style.language == "en")
CHINESE = tuple(name for name, style in STYLES.items() if style.language == "zh")
