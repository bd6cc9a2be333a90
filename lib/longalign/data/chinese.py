"""How much of a text is Chinese, by its characters, and so whether short texts and source code count as Chinese."""

import re
import unicodedata

CHINESE_SHARE = 0.3
"""From this share of Chinese characters among its letters on, a text counts as Chinese."""
HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_HAN = re.compile(f"[{HAN}]")
_KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa]")


def chinese_share(text: str) -> float | None:
    """The share of Chinese characters among the letters of a text; None where there are no letters.

    >>> chinese_share("用 GPU 训练"), chinese_share("1, 2."), chinese_share("no")
    (0.5, None, 0.0)
    """
    letters = sum(map(str.isalpha, text))
    return len(_HAN.findall(text)) / letters if letters else None


def is_other(text: str) -> bool:
    """Whether a text that is called English or Chinese is neither, by its letters: a tenth or more of them are Japanese
    kana, or half or more are neither Latin letters nor Chinese characters. Among languages of Latin letters it cannot
    tell.

    >>> is_other("Who leads?"), is_other("谁领头？"), is_other("Кто ведёт?"), is_other("誰が率いますか。")
    (False, False, True, True)
    """
    letters = [character for character in text if character.isalpha()]
    kana = len(_KANA.findall(text))
    known = sum(map(_is_latin, letters)) + len(_HAN.findall(text))
    return bool(letters) and (kana >= 0.1 * len(letters) or known <= len(letters) / 2)


def _is_latin(letter: str) -> bool:
    return letter.isascii() or "LATIN" in unicodedata.name(letter, "")


def language_of(text: str) -> str:
    """"zh" where `CHINESE_SHARE` of the letters are Chinese characters, else "en".

    >>> language_of("Marlow leads."), language_of("王安领头。")
    ('en', 'zh')
    """
    return "zh" if (chinese_share(text) or 0) >= CHINESE_SHARE else "en"
