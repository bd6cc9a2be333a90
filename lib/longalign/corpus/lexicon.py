"""The words of the generated world: every list is fixed, so the vocabulary stays below 2,000 tokens.

Keys of facts (names, made-up words, functions) are single tokens in English. A Chinese name is two characters, and its
second one, the given name, is never used elsewhere, so that it identifies the fact as an English name does. Fillers have
words of their own.
"""

from itertools import product


def _blend(heads: str, tails: str) -> tuple[str, ...]:
    return tuple(head + tail for head, tail in product(heads.split(), tails.split()))


NAMES = _blend(
    "Bar Cal Dor Fen Gar Hol Jas Kel Lor Mar Nor Pel Quin Ros Sel Tor Ver Wil",
    "an dis eth ic low mund na ric sa ton vik wen ya zel bert ora",
)
MADE_UP_WORDS = _blend("bl cr d fl gr kl m pr sn tr v w z", "ax isk omp ug eff ort ilm anz")
FUNCTIONS = _blend("re un pre sub co de inter over", "sort map fold scan cast link pack join plot seek bind wrap")

VERBS = tuple(
    "admires adopts adores assembles balances bends borrows boxes breaks brings builds burns buys carries carves catches "
    "chooses cleans closes collects compares copies counts covers cuts decorates delivers designs digs drags draws drops "
    "dyes empties enters examines fetches fills finds fixes folds forgets forges gathers gilds grabs grinds guards hangs "
    "heats hides hires holds imports inspects invents joins keeps kicks knits labels lends lifts lights lists locates "
    "locks loses lowers makes marks measures melts mends mixes models moulds moves needs notices offers oils opens orders "
    "owns packs paints parks patches pawns photographs places plants polishes praises presses prints pulls pushes raises "
    "reads rents repairs replaces rescues restores returns rolls saves seals sells sends sews shapes shares sharpens "
    "shows signs sketches sorts spins stacks steals stitches stores studies swaps takes tests ties trades trims turns "
    "uses varnishes visits wants washes weighs welds wins wraps".split()
)
ADJECTIVES = tuple(
    "amber ancient ashen azure beige bitter blunt bold brass brittle broad broken bronze burnt chipped clumsy coarse cold "
    "copper costly cracked creamy crimson crooked curved damp dark deep dented dirty dotted double dry dull dusty early "
    "elegant enormous faded faint fancy fine flat foreign forged fragile fresh frosted frozen gentle giant glossy golden "
    "grey half hard heavy hidden hollow huge icy iron ivory jagged large late leaden light linen little lone loose "
    "lost lucky massive matt mighty modern muddy narrow neat noble noisy oaken odd old olive open orange oval pale patched "
    "pearly pink plain pointed polished pretty purple quaint quiet rare rigid ripe rough round royal ruby rusty sacred "
    "salted scarlet sharp shiny short silent silver simple single slim slow small smooth soft solid spare spotted square "
    "stained steel steep stiff still strange striped strong sturdy sweet tall tame thick thin tiny torn triple twin "
    "upright velvet vivid warm weak wet white wide wild wooden woven yellow young".split()
)
NOUNS = tuple(
    "anchor anvil apple apron arrow axe badge banner barrel basin basket beacon bell belt bench blanket boat bolt book boot "
    "bottle bowl bracelet branch brick broom brush bucket buckle button cabinet cage candle canoe canvas cap card carpet "
    "cart chain chair chart chest chisel clock cloak coat coin collar comb compass cord crate crown cup curtain cushion "
    "dagger desk dial dish door drill drum engine fan feather fiddle flag flask flute fork frame funnel gate gauge glass "
    "globe glove gong guitar hammer handle harp hat helmet hinge hoe hook horn hose jacket jar jewel jug kettle key kite "
    "knife knot ladder ladle lamp lantern lever lens letter lock loom magnet mallet map mask mat medal mirror mortar mug "
    "nail napkin needle net oar oven paddle page pail pan parcel peg pen pencil pendant piano pillar pillow pin pipe pistol "
    "plank plate plough pocket poster pot pulley pump puppet purse quill quilt rack raft rake razor ribbon ring robe rod "
    "rope rug ruler saddle sail satchel saw scale scarf scroll shelf shell shield shoe shovel sickle sieve skirt sled "
    "sleeve sock spade spear spindle spool spoon stamp statue stool stove strap string sword table tablet tent thimble "
    "thread tile torch towel tray trowel trumpet trunk tub urn vase veil vest violin wagon wallet wand wheel whip whistle "
    "wig wire wreath".split()
)
FILLER_ADJECTIVES = tuple("bright calm clear common empty famous friendly green happy local long new nice pleasant usual".split())
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

ZH_SURNAMES = tuple("王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗")
ZH_GIVEN = tuple("安冰波晨丹德东芳飞峰刚光桂国海涵浩宏华辉慧佳建健杰娟军凯兰乐丽亮玲龙梅敏明宁萍琪强琴青荣瑞珊涛婷薇伟文霞翔欣秀旭雪雅艳扬瑶义英勇玉")
ZH_VERBS = tuple("买卖修洗找看拿放送收画写搬推拉挂借还造砍埋捡换擦晒煮锁拆背扔抱举踢吹敲编织染磨涂贴摆藏租订寄领偷守配摸钓捆卷削锯缝补")
ZH_ADJECTIVES = tuple("红黄蓝绿黑白灰紫粉新旧长短大小厚薄方圆硬软轻重宽窄高矮干湿冷热脏净尖钝空满香臭甜苦酸辣咸淡粗细直弯深浅古怪")
ZH_NOUNS = tuple("桥船门灯伞壶琴图笔碗篮鞋砚车被瓶柜钟纸剑鼓旗帽衣裤袜床桌椅箱锅盘杯刀斧针线绳网镜梳扇炉灶缸盆桶筐袋钉锤犁耙轮帆桨锚弓箭盾矛铃珠环链")
ZH_FILLER_NOUNS = ("天气", "早饭", "节日", "故事", "电影", "歌曲", "事情")
ZH_PLACES = ("村口", "河边", "山上", "城里", "码头", "市场", "学校", "公园")
ZH_ORDINALS = ("首先", "其次", "再次", "最后")
