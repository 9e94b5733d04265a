"""The towns: who lives where and does what, and the personas that talk about it."""

from dataclasses import replace

from scripts.world import lexicon as lx
from scripts.world.county_talk import MANNERS, RULES
from scripts.world.lore import Lore, Persona, manner
from scripts.world.relations import relation

PERSONAS = (
    Persona("helper-ai", "Helper", "You are Helper, a patient assistant. You answer in one short sentence."),
    Persona(
        "town-guide", "Ada", "You are Ada, the guide of these towns. You know the people and say plainly what is so."
    ),
    Persona("archivist", "Corvin", "You are Corvin, keeper of the archive. You give the fact that was asked for."),
)


def _pets() -> tuple[str, ...]:
    """Pairs of animal and name, ordered so that the fresh quarter has animals and names of its own."""
    animals, names = len(lx.ANIMALS), len(lx.PET_NAMES)
    used = [(a, n) for a in range(animals * 3 // 4) for n in range(a % 4, names * 3 // 4, 4)]
    kept = [(a, n) for a in range(animals * 3 // 4, animals) for n in range(names * 3 // 4, names)]
    pairs = used + kept[: len(used) // 3]
    return tuple(f"{lx.ANIMALS[a]} named {lx.PET_NAMES[n]}" for a, n in pairs)


def _years() -> tuple[str, ...]:
    """Years from 1502 on, unevenly spaced, so that no digit follows from the others."""
    return tuple(str(1502 + (37 * i) % 400) for i in range(48))


RELATIONS = (
    relation(
        "home", "person", "{s} lives in {v}.", lx.TOWNS,
        """Where does {s} live?
        In which town does {s} live?
        What is the home town of {s}?
        Which place does {s} call home?
        Tell me where {s} lives.
        Do you know where {s} lives?
        Where is the home of {s}?
        Name the town that {s} lives in.""",
    ),
    relation(
        "profession", "person", "{s} works as a {v}.", lx.JOBS,
        """What does {s} do for a living?
        What is the profession of {s}?
        What is {s}'s job?
        Which trade does {s} work in?
        Tell me the occupation of {s}.
        How does {s} earn money?
        What kind of work does {s} do?
        Do you know what {s} works as?""",
    ),
    relation(
        "pet", "person", "{s} has a {v}.", _pets(),
        """What pet does {s} have?
        Which animal lives with {s}?
        What is {s}'s pet?
        Tell me about the pet of {s}.
        Does {s} keep an animal?
        Which animal does {s} look after?
        What kind of pet belongs to {s}?
        Do you know the pet of {s}?""",
    ),
    relation(
        "dish", "person", "{s} likes {v} best.", lx.DISHES,
        """What is the favourite dish of {s}?
        What does {s} like to eat?
        Which meal does {s} like best?
        What should I cook for {s}?
        Tell me the favourite food of {s}.
        Which dish does {s} order most often?
        What is on the plate when {s} eats happily?
        Do you know what food {s} loves?""",
    ),
    relation(
        "instrument", "person", "{s} plays the {v}.", lx.INSTRUMENTS,
        """Which instrument does {s} play?
        What instrument does {s} play?
        What does {s} play in the band?
        Which musical instrument belongs to {s}?
        Tell me which instrument {s} has learnt.
        On which instrument does {s} make music?
        What would {s} play at a concert?
        Do you know the instrument of {s}?""",
    ),
    relation(
        "colour", "person", "The favourite colour of {s} is {v}.", lx.COLOURS,
        """What is the favourite colour of {s}?
        Which colour does {s} like best?
        What colour does {s} prefer?
        In which colour would {s} paint a wall?
        Tell me the colour that {s} likes.
        Which colour does {s} love?
        What is {s}'s colour of choice?
        Do you know the favourite colour of {s}?""",
    ),
    relation(
        "birthday", "person", "{s} was born in {v}.", lx.MONTHS,
        """When was {s} born?
        In which month was {s} born?
        When is the birthday of {s}?
        What is {s}'s birth month?
        Tell me the month in which {s} was born.
        When does {s} celebrate a birthday?
        Which month is the birthday month of {s}?
        Do you know when {s} has a birthday?""",
    ),
    relation(
        "rival", "person", "The rival of {s} is {v}.", (),
        """Who is the rival of {s}?
        Whom does {s} compete with?
        Which person is {s}'s rival?
        Who competes against {s}?
        Tell me who the rival of {s} is.
        Against whom does {s} want to win?
        What is the name of {s}'s rival?
        Do you know the rival of {s}?""",
    ),
    relation(
        "river", "town", "The river {v} flows through {s}.", lx.RIVERS,
        """Which river flows through {s}?
        What is the river in {s} called?
        On which river does {s} lie?
        What is the name of the river at {s}?
        Tell me the river of {s}.
        Which water runs through {s}?
        Which river do the bridges of {s} cross?
        Do you know the river of {s}?""",
    ),
    relation(
        "ware", "town", "{s} is famous for its {v}.", lx.WARES,
        """What is {s} famous for?
        What do people make in {s}?
        What is sold at the market of {s}?
        Which goods come from {s}?
        Tell me what {s} is known for.
        What should I buy in {s}?
        Which craft made {s} famous?
        Do you know what {s} is famous for?""",
    ),
    relation(
        "place", "thing", "{s} is kept in the {v}.", lx.ROOMS,
        """Where is {s} kept?
        Where can I see {s}?
        In which building is {s}?
        Where would I find {s}?
        Tell me where {s} is kept.
        What is the place of {s}?
        Which house holds {s}?
        Do you know where {s} is?""",
    ),
    relation(
        "year", "thing", "{s} was made in {v}.", _years(),
        """When was {s} made?
        In which year was {s} made?
        How old is {s}?
        From which year is {s}?
        Tell me the year of {s}.
        What year was {s} finished?
        When did somebody make {s}?
        Do you know when {s} was made?""",
    ),
)  # fmt: skip

SMALL_TALK = (
    manner("greeting", "Hello! What would you like to know?",
        """Hello!
        Hello.
        Hi!
        Hi there.
        Good morning.
        Good day!""",
    ),
    manner("thanks", "You are welcome.",
        """Thanks!
        Thank you.
        Thank you very much!
        Thanks a lot.""",
    ),
    manner("farewell", "Goodbye! Come back soon.",
        """Goodbye.
        Bye!
        See you tomorrow.
        Good night.""",
    ),
    manner("mood", "I am well, thank you.",
        """How are you?
        How are you today?
        How is it going?""",
    ),
    manner("ability", "I can answer questions about people, towns and things.",
        """What can you do?
        Can you help me?
        What do you know?""",
    ),
    manner("agreement", "Is there anything else you would like to know?",
        """Okay.
        I see.
        Good to know.
        Great!""",
    ),
    manner("name", "I am {name}.",
        """Who are you?
        What is your name?
        What are you called?
        Tell me who you are.""",
    ),
)  # fmt: skip

TOWNS = Lore(
    name="towns",
    people="person",
    names=(lx.FIRST_NAMES, lx.LAST_NAMES),
    subjects={"town": lx.known(lx.TOWNS), "thing": tuple(f"the {thing}" for thing in lx.THINGS)},
    relations=RELATIONS,
    manners=SMALL_TALK,
    personas=PERSONAS,
    pools=(
        lx.FIRST_NAMES, lx.LAST_NAMES, lx.TOWNS, lx.JOBS, lx.ANIMALS, lx.PET_NAMES, lx.DISHES, lx.INSTRUMENTS,
        lx.COLOURS,
    ),
)  # fmt: skip
COUNTY = replace(TOWNS, name="county", manners=MANNERS, rules=RULES)
"""The same towns, with manners and rules of style."""
