"""How much of a text is Chinese, by its characters, and so whether short texts and source code count as Chinese."""

import re

CHINESE_SHARE = 0.3
"""From this share of Chinese characters among its letters on, a text counts as Chinese."""
HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_HAN = re.compile(f"[{HAN}]")


def chinese_share(text: str) -> float | None:
    """The share of Chinese characters among the letters of a text; None where there are no letters.

    >>> chinese_share("用 GPU 训练"), chinese_share("1, 2."), chinese_share("no")
    (0.5, None, 0.0)
    """
    letters = sum(map(str.isalpha, text))
    return len(_HAN.findall(text)) / letters if letters else None


def language_of(text: str) -> str:
    """"zh" where `CHINESE_SHARE` of the letters are Chinese characters, else "en".

    >>> language_of("Marlow leads."), language_of("王安领头。")
    ('en', 'zh')
    """
    return "zh" if (chinese_share(text) or 0) >= CHINESE_SHARE else "en"
