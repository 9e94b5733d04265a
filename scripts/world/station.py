"""The station: a crew, its ships and the moons they fly to; asked in commands, answered from the other end."""

from scripts.world.lore import Lore, Persona
from scripts.world.relations import relation
from scripts.world.station_talk import MANNERS, RULES


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(" ".join(phrase.split()) for phrase in text.split(","))


CALLS = _words(
    """
    Orin Zuri Kestrel Vesper Talon Nyx Ravi Solenne Bao Ingrid Cato Mei Dax Liora Pavel Quinn Hesper Ruby Anders Sable
    Tomas Juno Elio Freya Gaspard Halima Io Jarek Kira Lachlan Maren Nils Oona Piet Rhea Sven Tove Uma Viggo Wren Xan
    Ylva Zeno Aster Briar Corin Dara Esme Finn Gale Hollis Ines Jory Kai Lumi Moss
    """
)
CLANS = _words(
    """
    Vex Arkady Brandvold Cray Duarte Ellery Fisk Gantry Hale Ishikawa Jessup Krane Lodge Maddox Nordahl Osei Pryor
    Quade Rook Stell Trask Uttar Volkov Wray Xiang York Zhao Alder Barrow Cobb Dray Egan Frost Grieve Holt Ivers Jett
    Knox Lund Marsh Nash Oakes Pike Roe Slate Thorn Ulm Voss Wilde Yates Abbot Bell Crane Dunn East Ford
    """
)
SHIPS = _words(
    """
    Albatross Borealis Corsair Dauntless Equinox Firefly Galleon Halcyon Intrepid Jackdaw Kingfisher Leviathan Mariner
    Nomad Osprey Petrel Quicksilver Rambler Sparrow Tempest Undaunted Valiant Wanderer Zephyr Ardent Buccaneer Comet
    Drifter Endeavour Falcon Gannet Harrier Ibis Javelin Kite Lancer
    """
)
MOONS = _words(
    """
    Acheron Belus Cinder Dione Elara Fornax Gorgon Himalia Iapetus Janus Kalyke Leda Mimas Narvi Oberon Pan Quaoar
    Rhadamanth Sycorax Tethys Umbriel Vanth Weywot Ymir Aegir Bestla Carme Despina Erriapus Fenrir Galatea Hyrrokkin
    """
)
DECKS = _phrases(
    """
    deck one, deck two, deck three, deck four, deck five, the aft ring, the bow ring, the garden wing, the cargo spine,
    the north spoke, the south spoke, the reactor hall, the old dock, the signal tower, the ice vault, the hub,
    the upper gallery, the lower gallery, the med bay, the hangar, the tank farm, the glass dome, the bunk row,
    the far annex
    """
)
DUTIES = _phrases(
    """
    hull welding, star charting, algae farming, radio watch, fuel sampling, drone repair, water recycling, cargo
    loading, bone setting, soup cooking, reactor tending, suit mending, ore sorting, air testing, lock picking,
    cable splicing, seed keeping, map drawing, engine tuning, code breaking, ice cutting, lamp cleaning, tool
    forging, dust sweeping
    """
)
DRINKS = _phrases(
    """
    mint tea, black coffee, plum juice, hot cocoa, ginger beer, salt water, beet kvass, green tea, oat milk,
    cold cider, rice wine, lime soda, malt broth, pear nectar, rose syrup, pepper rum, fig cordial, corn beer,
    almond milk, sour whey
    """
)
TOOLS = _phrases(
    """
    torque wrench, plasma cutter, sextant, soldering iron, grapple gun, hand pump, spanner, voltmeter, rivet hammer,
    bolt driver, wire brush, heat lamp, pipe bender, glass cutter, chain hoist, oil can, crowbar, bench vise, hacksaw,
    level, plumb line, pry bar, tap set, feeler gauge
    """
)
FEARS = _phrases(
    """
    loud alarms, deep water, tight ducts, empty halls, solar flares, moths, thunder, old age, needles, mirrors, open
    space, broken glass, silence, cold nights, crowds, rats, heights, fire, being late, strong wind
    """
)
SONGS = _phrases(
    """
    Blue Harbour, Last Light, The Tin Drum, Slow Orbit, Winter Road, Green Lantern, Far From Shore, Two Moons, Paper
    Boats, Old Friend, The Long Watch, Silver Rain, Home Again, Ashes, Morning Bell, The Miller, Red Sand, Little Star,
    Northbound, The Weaver
    """
)
SHIFTS = _phrases(
    """
    the dawn shift, the noon shift, the dusk shift, the midnight shift, the odd shift, the even shift, the long shift,
    the short shift, the split shift, the relief shift, the standby shift, the holiday shift
    """
)
ORES = _phrases(
    """
    nickel, cobalt, blue ice, methane, iridium, basalt, sulphur, helium, titanium, quartz, iron, platinum, zinc, salt,
    granite, carbon
    """
)
CARGO = _phrases(
    """
    grain, spare hulls, medicine, mail, drinking water, solar panels, live fish, timber, batteries, window glass, steel
    rope, seeds, pressed algae, lamp oil, bricks, wool
    """
)
ENGINES = _phrases(
    """
    an ion engine, a steam engine, a fusion engine, a solar sail, a plasma engine, a diesel engine, twin rockets, a
    magnet drive, a tug beam, a gas turbine, four thrusters, a cold jet
    """
)
DISTANCES = tuple(f"{140 + (53 * i) % 700} leagues" for i in range(40))

RELATIONS = (
    relation("berth", "crew", "It is {v} where {s} sleeps.", DECKS,
        """berth of {s}
        where does {s} sleep
        show me the bunk of {s}
        which deck is home to {s}
        {s} is quartered where
        find the quarters of {s}
        at night I can reach {s} in which part
        state the sleeping place of {s}""",
    ),
    relation("duty", "crew", "{v} is the duty of {s}.", DUTIES,
        """duty of {s}
        what is {s} in charge of
        what work has {s} been given
        state the assignment of {s}
        {s} is responsible for what
        what does {s} do all day
        which task belongs to {s}
        look up the post of {s}""",
    ),
    relation("drink", "crew", "Always {v} for {s}.", DRINKS,
        """drink of {s}
        what should I pour for {s}
        what does {s} drink
        bring {s} something to drink, but what
        which cup is for {s}
        what does {s} order at the bar
        state the beverage {s} asks for
        thirsty, {s} reaches for what""",
    ),
    relation("tool", "crew", "The {v} was lent to {s}.", TOOLS,
        """tool of {s}
        what has {s} borrowed
        which tool does {s} carry
        what was lent to {s}
        {s} signed for which tool
        check the locker of {s}
        name the equipment of {s}
        what hangs on the belt of {s}""",
    ),
    relation("fear", "crew", "Of {v}, {s} is afraid.", FEARS,
        """fear of {s}
        what frightens {s}
        what is {s} afraid of
        what makes {s} shiver
        {s} runs away from what
        what gives {s} bad dreams
        spare {s} what
        name the phobia of {s}""",
    ),
    relation("song", "crew", '"{v}" is what {s} sings.', SONGS,
        """song of {s}
        what does {s} sing
        which tune does {s} hum
        play the favourite music of {s}
        what is {s} humming
        which record did {s} bring
        {s} knows which song by heart
        name the melody of {s}""",
    ),
    relation("shift", "crew", "On {v} you meet {s}.", SHIFTS,
        """shift of {s}
        when does {s} work
        when is {s} on watch
        at what time can I meet {s}
        {s} is on which roster
        state the hours of {s}
        when will {s} be at the desk
        which watch does {s} stand""",
    ),
    relation("mentor", "crew", "{v} taught {s}.", (),
        """mentor of {s}
        who taught {s}
        whose pupil is {s}
        who trained {s}
        from whom did {s} learn
        name the teacher of {s}
        {s} was an apprentice to whom
        who showed {s} the ropes""",
    ),
    relation("cargo", "ship", "{v} fills the hold of the {s}.", CARGO,
        """cargo of the {s}
        what does the {s} carry
        what is in the hold of the {s}
        what will the {s} unload
        freight list of the {s}
        the {s} brings us what
        inspect the load of the {s}
        what was shipped on the {s}""",
    ),
    relation("engine", "ship", "With {v} the {s} flies.", ENGINES,
        """engine of the {s}
        what drives the {s}
        how is the {s} powered
        the {s} runs on what
        what pushes the {s} along
        state the propulsion of the {s}
        what hums at the stern of the {s}
        which motor is in the {s}""",
    ),
    relation("ore", "moon", "They dig {v} on {s}.", ORES,
        """ore of {s}
        what is mined on {s}
        what do they dig on {s}
        which mineral comes from {s}
        {s} is rich in what
        what lies under the crust of {s}
        why do miners go to {s}
        name the resource of {s}""",
    ),
    relation("distance", "moon", "{v} is the way to {s}.", DISTANCES,
        """distance of {s}
        how far is {s}
        how far away is the moon {s}
        what is the range to {s}
        state the way to {s}
        leagues to {s}
        how long is the flight to {s}
        measure the path to {s}""",
    ),
)  # fmt: skip

STATION = Lore(
    name="station",
    people="crew",
    names=(CALLS, CLANS),
    subjects={"ship": SHIPS, "moon": MOONS},
    relations=RELATIONS,
    manners=MANNERS,
    personas=(
        Persona("purser", "Brisk", "Brisk runs the purser's desk and keeps every reply short."),
        Persona("warden", "Moth", "You speak as Moth, the warden. You look things up in the log and read them out."),
        Persona("pilot", "Gull", "Gull, the pilot's mate, answers over the radio."),
    ),
    pools=(CALLS, CLANS, SHIPS, MOONS, DECKS, DUTIES, DRINKS, TOOLS, FEARS, SONGS, ORES, CARGO, ENGINES),
    unknown="There is no such entry.",
    rules=RULES,
)
