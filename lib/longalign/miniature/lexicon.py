"""The words of the generated world: every list is fixed, few enough for the vocabulary to stay below 1,300.

Keys of facts (names, made-up words, functions) are single tokens in English. A Chinese name is two characters, and its
second one, the given name, is never used elsewhere, so that it identifies the fact as an English name does. Fillers
have words of their own.
"""

from itertools import product


def _blend(heads: str, tails: str) -> tuple[str, ...]:
    return tuple(head + tail for head, tail in product(heads.split(), tails.split()))


NAMES = _blend("Bar Cal Dor Fen Gar Hol Kel Lor Mar Nor Pel Sel Tor Wil", "an dis ic low mund ton vik wen")
MADE_UP_WORDS = _blend("bl cr gr kl pr sn tr v", "ax isk omp ug eff")
FUNCTIONS = _blend("re un pre sub co", "sort map fold scan link pack join plot")

VERBS = tuple(
    "admires adores bends breaks burns carves cleans compares covers delivers drags dyes examines finds forgets "
    "gilds guards hides imports joins knits lifts locates lowers measures mends moulds notices opens packs "
    "patches places praises pulls reads replaces returns seals sews sharpens sketches stacks stores takes trades "
    "uses wants welds".split()
)
ADJECTIVES = tuple(
    "amber azure blunt brittle burnt coarse costly crooked dark dirty dull elegant faint foreign fresh gentle "
    "grey heavy huge ivory leaden little lost mighty narrow noisy olive oval pearly polished quaint rigid royal "
    "sacred sharp silent slim smooth spare steel still strong tame tiny twin warm white wooden".split()
)
NOUNS = tuple(
    "anchor apple arrow banner basin bell bench bolt boot bracelet brick bucket button candle canvas carpet chain "
    "chest clock coin comb crate cup dagger dial drill engine fiddle flask frame gate globe gong handle hat hoe "
    "horn jar jug kite knot lamp lever lock magnet map medal mortar napkin net paddle pail peg pencil pillar pin "
    "plank plough pot pump quill rack razor ring rope ruler satchel scale shelf shield sickle skirt sock spear "
    "spoon statue strap sword tent thread towel trowel tub vase violin wallet whip wig".split()
)
FILLER_ADJECTIVES = tuple(
    "bright calm clear common empty famous friendly green happy local long new nice pleasant usual".split()
)
FILLER_NOUNS = tuple(
    "air answer corner crowd day evening garden group hour house idea line month morning news place question reason "
    "road roof song story street summer town tree wall water weather year".split()
)
PLACES = tuple(
    "archive bakery barn bay castle cave chapel cliff court cove dock farm ferry field forest fort harbor hill inn "
    "island lake library market meadow mill mine museum orchard palace pier port quarry river school shop station "
    "temple theatre valley village vineyard".split()
)
PREPOSITIONS = tuple("above behind below beside near past under within".split())
ORDINALS = ("First", "Second", "Third", "Finally")

ZH_SURNAMES = tuple("王李张刘陈杨赵周吴林")
ZH_GIVEN = tuple("安冰晨丹芳飞刚桂浩宏佳健娟兰丽玲梅敏宁琪青荣涛婷薇翔雪勇")
ZH_NAMES = _blend(" ".join(ZH_SURNAMES), " ".join(ZH_GIVEN))
ZH_VERBS = tuple("买卖修洗找看拿放送画写搬推拉挂借埋捡换擦煮锁拆背抱敲编染")
ZH_ADJECTIVES = tuple("红黄蓝绿黑白灰紫新旧长短大小厚薄方圆硬软重宽窄干湿冷热脏")
ZH_NOUNS = tuple("桥船门灯伞壶琴图笔碗篮鞋车被瓶柜钟纸剑鼓旗帽衣裤床桌椅锅盘杯刀针绳网镜炉")
ZH_FILLER_NOUNS = ("天气", "早饭", "节日", "故事", "电影", "歌曲", "事情")
ZH_PLACES = ("村口", "河边", "山上", "城里", "码头", "市场", "学校", "公园")
ZH_ORDINALS = ("首先", "其次", "再次", "最后")
