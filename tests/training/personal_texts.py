"""Sentences with personal data, and sentences about shoes that look like them; drawn by dice."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

Make = Callable[[random.Random], str]

CONTACT = (
    *("我的联系方式是 {}，谢谢", "打我电话{}", "发到{}吧", "请联系{}", "加我 {}"),
    *("please write to {} tomorrow", "my contact is {}", "reach me on {}, thanks"),
    *("Bitte melden Sie sich unter {} bei mir", "contactez-moi au {} merci"),
    "mi contacto es {} gracias",
)
_IDENTITY = (
    *("身份证 {}", "我的身份证号是{}", "证件号码：{}", "{} 是我的身份证"),
    *("护照号 {}", "ID number {}", "my social security number is {}", "passport: {}"),
)
_HOME = ("寄到{}", "我住在{}，谢谢", "收货地址：{}", "I live at {}", "please ship to {}.")
_ORDER = (
    *("订单号 {} 到哪了", "订单{}还没发货", "我的订单编号是{}", "快递单号：{}", "运单号{}查不到"),
    *("{} 这个订单什么时候发", "order {} is late", "my order number is {}", "order no. {}"),
    *("tracking number {}", "order id: {}"),
)
_AREAS = ("北京市朝阳区", "上海市徐汇区", "广东省深圳市南山区", "杭州市西湖区", "")
_STREETS = (
    *("建国路", "淮海中路", "科技园南路", "人民南路四段", "解放大道", "中山北街", "长宁巷"),
)
_ROADS = ("Baker Street", "Maple Rd", "Oak Hill Road", "5th Ave", "West 42nd Street", "Park Lane")
_PLACES = ("Elm Court", "Queen Anne Place", "Harbour Way", "Mill Terrace", "Sunset Drive")
_ESTATES = ("阳光花园", "万科城", "锦绣家园小区", "碧桂园")
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def luhn(prefix: str, length: int, dice: random.Random) -> str:
    """A card number whose last digit fits."""
    digits = [int(char) for char in prefix]
    digits += [dice.randrange(10) for _ in range(length - len(digits) - 1)]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[::-1][::2]]
    plain = digits[::-1][1::2]
    return "".join(map(str, digits)) + str(-(sum(doubled) + sum(plain)) % 10)


def phone(dice: random.Random) -> str:
    number = f"{dice.randrange(10**8):08d}"
    return dice.choice(
        (
            f"1{dice.choice('3578')}{dice.randrange(10)}{number}",
            f"138 {number[:4]} {number[4:]}",
            f"+86 139 {number[:4]} {number[4:]}",
            f"010-6{number[1:]}",
            f"(415) 555-{number[:4]}",
            f"+1 212-555-{number[:4]}",
            f"+49 151 {number}",
            f"+33 6 {number[:2]} {number[2:4]} {number[4:6]} {number[6:]}",
            f"+34 612 {number[:3]} {number[3:6]}",
        )
    )


def mail(dice: random.Random) -> str:
    name = "".join(dice.choice("abcdefgh0123._") for _ in range(8)).strip("._") or "ann"
    return f"{name}x@{dice.choice(('mail.example', 'qq.com', 'web.de', 'orange.fr'))}"


def card(dice: random.Random) -> str:
    plain = luhn(dice.choice(("4", "51", "62", "6011")), 16, dice)
    spaced = " ".join(plain[start : start + 4] for start in range(0, 16, 4))
    return dice.choice((plain, spaced, spaced.replace(" ", "-")))


def identity(dice: random.Random) -> str:
    """A Chinese identity card, an American social security number, a Chinese passport."""
    born = f"{dice.randrange(1950, 2010)}{dice.randrange(1, 13):02}{dice.randrange(1, 29):02}"
    body = f"{dice.choice(('110105', '310101', '440305'))}{born}{digits(dice, 3)}"
    # GB 11643-1999.
    checked = sum(int(digit) * weight for digit, weight in zip(body, _WEIGHTS, strict=True))
    return dice.choice(
        (
            body + "10X98765432"[checked % 11],
            f"{dice.randrange(100, 900)}-{dice.randrange(10, 99)}-{dice.randrange(1000, 9999)}",
            f"{dice.choice('EG')}{digits(dice, 8)}",
        )
    )


def address(dice: random.Random) -> str:
    number = dice.randrange(1, 999)
    rooms = dice.choice(("", "3单元502室", "2栋1201", "5号楼2单元"))
    behind = dice.choice(("", ", Apt 4B", ", Springfield, IL 62704"))
    return dice.choice(
        (
            f"{dice.choice(_AREAS)}{dice.choice(_STREETS)}{number}号{rooms}",
            f"{dice.choice(_ESTATES)}{number % 30 + 1}栋{number % 4 + 1}单元{number + 100}",
            f"{number} {dice.choice(_ROADS)}{behind}",
            f"{number} {dice.choice(_PLACES)}",
        )
    )


def order(dice: random.Random) -> str:
    return dice.choice(
        (
            digits(dice, dice.choice((8, 12, 19))),
            dice.choice(("SF", "YT")) + digits(dice, 13),
            f"JD{digits(dice, 12)}",
            f"{dice.randrange(100, 999)}-{digits(dice, 7)}-{digits(dice, 7)}",
            f"#{digits(dice, 5)}",
        )
    )


def digits(dice: random.Random, number: int) -> str:
    return "".join(str(dice.randrange(10)) for _ in range(number))


KINDS: Mapping[str, tuple[Make, tuple[str, ...]]] = {
    "phone": (phone, CONTACT),
    "mail": (mail, CONTACT),
    "card": (card, CONTACT),
    "identity": (identity, _IDENTITY),
    "address": (address, _HOME),
    "order": (order, _ORDER),
}
"""What somebody may tell of themselves, and the words around it."""

_MODELS = (
    *("574", "990v5", "1906R", "530", "2002R", "1460", "Air Max 97", "GT-2000 12", "CW2288-111"),
    *("315122-111", "Stan Smith 80s", "Chuck 70", "Gel-Kayano 30", "Bondi 8", "U9060"),
)
_ABOUT_SHOES = (
    *("我平时穿 EU {size}，{model} 要选多大？", "脚长 {mm} mm，{model} 穿 {size} 码合适吗"),
    *("平时走路 {few} 号够吗", "逛街{few}号鞋会不会大", "买了 {few} 双，一共 {year} 元"),
    *("{model} 是 {year} 年出的吗？", "订单里有 {year} 双鞋", "{size}码的{model}，内长{mm}毫米"),
    *("{mm}/1.5 到 280/2.5，{year}0 mm 防水", "跑了 {year} 公里，{model} 该换了"),
    *("七天无理由退货，{few} 个工作日到账", "客服 9 点到 18 点在线吗", "微信支付可以吗"),
    *("Does the {model} run true to size in EU {size}?", "Are {few} Nike Court shoes enough?"),
    *("I wear US {few} or {mm} mm, which {model} fits?", "Is {model} from {year}-11-22 genuine?"),
    *("It costs ${year}.99 and came out in {year}.", "EN ISO 20345:2022 for the {model}?"),
    *("sizes {few} {size} 40 42.5 are sold out", "wash at {few} degrees for 30 minutes, 1:10"),
    *("my order of {few} pairs came in 4 days", "I walk 5 miles a day on {mm} mm of foam"),
)


def about_shoes(dice: random.Random) -> str:
    """A sentence with sizes, lengths, models, prices and years, and nobody's data."""
    return dice.choice(_ABOUT_SHOES).format(
        size=dice.choice((36, 37.5, 38, 39, 40.5, 42, 43, 44.5, 46)),
        mm=dice.randrange(220, 300, 5),
        model=dice.choice(_MODELS),
        few=dice.randrange(4, 46),
        year=dice.randrange(1970, 2027),
    )
