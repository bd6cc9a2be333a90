"""The words of the generated world: every list is fixed, so the vocabulary stays below 2,000 tokens.

Keys of facts (names, made-up words, functions) are single tokens in English. A Chinese name is two characters, and its
second one, the given name, is never used elsewhere, so that it identifies the fact as an English name does.
"""

from itertools import product


def _blend(heads: str, tails: str) -> tuple[str, ...]:
    return tuple(head + tail for head, tail in product(heads.split(), tails.split()))


NAMES = _blend(
    "Bar Cal Dor Fen Gar Hol Jas Kel Lor Mar Nor Osk Pel Quin Ros Sel Tor Ul Ver Wil",
    "an dis eth ic low mund na ric sa ton vik wen ya zel bert ora",
)
MADE_UP_WORDS = _blend("bl cr d fl gr j kl m pr sn tr v w z", "ax isk omp ug eff ort ilm anz")
FUNCTIONS = _blend("re un pre sub co de inter over", "sort map fold scan cast link pack join plot seek bind wrap")

ADJECTIVES = tuple(
    "amber ancient bitter bold brass bright broken calm clear cold copper crooked dark deep dry dusty early empty faded "
    "fine flat frozen gentle golden grey heavy hidden hollow iron large late light long loose narrow old pale plain "
    "quiet rare rough round rusty salted sharp short silent silver slow small smooth soft steep still striped sweet "
    "tall thick thin wide wild wooden".split()
)
NOUNS = tuple(
    "anchor apple arrow badge barrel basket beacon bell blanket boat bottle bowl branch brick bridge brush bucket button "
    "candle canvas card carpet cart chain chair chart chest clock cloak coin compass cord crate crown cup curtain desk "
    "door drum engine fan feather fence flag flute fork fountain frame garden gate glass glove hammer harp hat helmet "
    "hook horn jar kettle key kite knife ladder lamp lantern leaf lens letter lock loom map mask mirror nail needle net "
    "oar oven page paint pearl pen pillar pipe plate plough pot purse quilt rake ribbon ring robe rope saddle sail scale "
    "scarf seal shelf shell shield shovel sign spoon stamp stone stool stove string sword table tent thread tile torch "
    "towel tower tray vase violin wagon wall wheel whistle window wire".split()
)
PLACES = tuple(
    "archive bakery barn bay castle cave chapel cliff court cove dock farm ferry field forest fort harbor hill hut inn "
    "island lake library market meadow mill mine museum orchard palace pier port quarry river school shop square "
    "station stable temple theatre valley village vineyard yard".split()
)
PREPOSITIONS = tuple("above behind below beside near past under within".split())
ACTIONS = tuple("build clean close cover find guard keep lift mark measure mend move open paint repair sell send".split())
ORDINALS = ("First", "Second", "Third", "Finally")

ZH_SURNAMES = tuple("王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗")
ZH_GIVEN = tuple("安冰波晨丹德东芳飞峰刚光桂国海涵浩宏华辉慧佳建健杰娟军凯兰乐丽亮玲龙梅敏明宁萍琪强琴青荣瑞珊涛婷薇伟文霞翔欣秀旭雪雅艳扬瑶义英勇玉")
ZH_VERBS = ("保管", "修理", "发现", "购买", "制作", "寻找", "运送", "清洗", "收藏", "展示")
ZH_ADJECTIVES = tuple("红黄蓝绿黑白旧新长短")
ZH_NOUNS = ("石桥", "木船", "铁门", "铜灯", "纸伞", "茶壶", "古琴", "地图", "毛笔", "瓷碗", "竹篮", "布鞋", "砚台", "风车", "棉被", "花瓶", "书柜", "钟表")
ZH_PLACES = ("村口", "河边", "山上", "城里", "码头", "市场", "学校", "花园")
ZH_ORDINALS = ("首先", "其次", "再次", "最后")
