"""Units and currencies that people write beside a number, and how those of a kind convert into each other."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple


class Unit(NamedTuple):
    """One known unit."""

    kind: str
    """What it measures; units of a kind convert."""
    factor: Fraction
    """How many of the first unit of its kind it is."""


_TABLE = {
    "length": "m meter metre:1 cm centimeter centimetre:0.01 mm millimeter millimetre:0.001 "
    "km kilometer kilometre:1000 in inch inches:0.0254 ft foot feet:0.3048 yd yard:0.9144 mi mile:1609.344",
    "mass": "g gram gramme:1 mg milligram:0.001 kg kilogram:1000 t tonne:1000000 "
    "oz ounce:28.349523125 lb lbs pound:453.59237",
    "time": "s sec second:1 ms millisecond:0.001 min minute:60 h hr hour:3600 day:86400 week:604800",
    "long time": "month:1 year yr:12 decade:120",
    "volume": "L l liter litre:1 mL ml milliliter millilitre:0.001 cl centiliter:0.01 gallon:3.785411784",
    "angle": "deg degree ^\\circ:1",
    "radians": "rad radian:1",
    "celsius": "^\\circC ^\\circ_C celsius:1",
    "fahrenheit": "^\\circF fahrenheit:1",
    "dollars": "$ dollar USD US$ buck:1 cent ¢:0.01",
    "euros": "€ euro EUR:1",
    "pounds sterling": "£ GBP:1",
    "yen": "¥ yen JPY:1",
    "rupees": "₹ rupee Rs Rs. INR:1",
    "energy": "J joule:1 kJ kilojoule:1000 MJ:1000000 cal calorie:4.184 kcal:4184 eV:1.602176634e-19",
    "power": "W watt:1 kW kilowatt:1000 mW:0.001 MW:1000000",
    "force": "N newton:1 kN:1000",
    "pressure": "Pa pascal:1 kPa:1000 atm:101325",
    "speed": "m/s mps:1 km/h kmh kph:5/18 mph:0.44704",
    "voltage": "V volt:1",
    "current": "A ampere amp:1 mA:0.001",
    "resistance": "Ω ohm \\Omega:1",
    "frequency": "Hz hertz:1 kHz:1000 MHz:1000000",
    "substance": "mol mole:1",
    "temperature": "K kelvin:1",
}
_CASED = frozenset(("m", "mW", "MW", "MJ", "g", "t", "s", "h", "l", "L", "J", "N", "W", "V", "A", "K", "Pa"))
"""Short signs in which a capital letter means something else."""
_POWER = re.compile(r"(.*?)(?:\^\{?([23])\}?)?", re.DOTALL)
_SQUARE = re.compile(r"(square|sq\.?|cubic|cu\.?) (.+)|(.+?) (squared|cubed)")


def _entries() -> dict[str, Unit]:
    known: dict[str, Unit] = {}
    for kind, line in _TABLE.items():
        names: list[str] = []
        for word in line.split():
            name, _, factor = word.partition(":")
            names.append(name)
            if factor:
                unit = Unit(kind, Fraction(factor))
                known |= {name if name in _CASED else name.casefold(): unit for name in names}
                names = []
    return known


_UNITS = _entries()


_OPPOSITES = """
n:s north:south e:w east:west bc:ad bce:ce bc:ce left:right up:down upward:downward above:below before:after
clockwise:counterclockwise clockwise:anticlockwise win:loss win:lose gain:loss profit:loss won:lost head:tail
boy:girl male:female men:women
"""
_OPPOSITE = frozenset(frozenset(pair.split(":")) for pair in _OPPOSITES.split())
_PER = re.compile(r"\s*/\s*|\s+per\s+")
_UNIT_WORD = re.compile(r"[^\W\d_]+")


def contrary_units(one: str, other: str) -> bool:
    """Whether two texts behind a number say the contrary: the inverse (`km/h`, `h/km`), or another direction or era."""
    if not (one and other) or one == other:
        return False
    first, second = _PER.split(one), _PER.split(other)
    if len(second) == 2 and (len(first) == 2 or known_unit(one)):
        inverse, own = " per ".join(second[::-1]), known_unit(one)
        flipped = known_unit(inverse) or known_unit("/".join(second[::-1]))
        if (own and flipped and own.kind == flipped.kind) or [*map(_stem, first)] == [*map(_stem, second[::-1])]:
            return _stem(one) != _stem(other)
    words = [{_stem(word) for word in _UNIT_WORD.findall(text)} for text in (one, other)]
    return any(frozenset((a, b)) in _OPPOSITE for a in words[0] - words[1] for b in words[1] - words[0])


def _stem(word: str) -> str:
    """A word without the ending of its plural."""
    word = word.strip().casefold()
    return re.sub(r"(?<=[xshz])es$|(?<=\w{2}[^s])s$", "", word)


def known_unit(text: str) -> Unit | None:
    """The unit of a text such as `cm`, `metres`, `square feet`, `km^2`; None if it is none of the table."""
    text = " ".join(text.split())
    exponent = 1
    if squared := _SQUARE.fullmatch(text):
        text = squared.group(2) or squared.group(3)
        exponent = 2 if (squared.group(1) or squared.group(4))[0] == "s" else 3
    elif (power := _POWER.fullmatch(text)) and power.group(2):
        text, exponent = power.group(1), int(power.group(2))
    for name in (text, text.removesuffix("s"), text.removesuffix("."), text.replace(" ", "")):
        unit = _UNITS.get(name) or _UNITS.get(name.casefold() if name not in _CASED and len(name) > 1 else name)
        if unit is not None:
            return unit if exponent == 1 else Unit(f"{unit.kind}^{exponent}", unit.factor**exponent)
    return None
