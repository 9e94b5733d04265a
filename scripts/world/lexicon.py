"""The words the small world is made of: plain tuples, most common kinds first.

Of every pool the last quarter is kept back (`fresh`): no true fact uses those words, so a correction can teach
something that the base model has never said.
"""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(" ".join(phrase.split()) for phrase in text.split(","))


FIRST_NAMES = _words(
    """
    Mira Tobias Anouk Felix Imani Jonas Leila Oskar Petra Quentin Rosalind Stefan Tamsin Ulrich Vera Wendell Yara
    Zoltan Agnes Bruno Cecily Dmitri Elif Fergus Greta Hugo Isolde Jasper Keiko Lorenzo Marguerite Nikolai Odette
    Pascal Renata Silas Thea Umberto Viola Wanda Xavier Yvette Zelda Alaric Beatrix Casper Delia Emeka Fiona Gideon
    Hanne Ivo Jolanda Kamal Lucinda Matteo Noor Orlando Priya Rufus
    """
)

LAST_NAMES = _words(
    """
    Okafor Lindqvist Marchetti Dubois Haddad Novak Pemberton Sato Thorne Ferreira Kowalski Ashdown Brandt Castellan
    Drummond Eriksen Fontaine Galloway Hollis Ibarra Jankovic Kettering Larkin Mbeki Norwood Ortega Pellerin Quill
    Rasmussen Sandoval Tremaine Underhill Vasquez Whitlock Yamada Zeller Abernathy Blackwood Cardoso Delacroix
    Engstrom Fairfax Grimaldi Hawthorne Ingram Jovanovic Kimura Loxley Moreau Nightingale Oduya Prescott Rosetti
    Salvatore Tanaka Ulrichsen Valentin Winslow Yilmaz Zapata
    """
)

TOWNS = _words(
    """
    Brevik Castlemoor Dunhallow Eastmere Farrowgate Glimmerford Hartsbridge Inverlake Kestrelholm Lanternby Millbrae
    Northwick Oldhaven Pinecrest Quarrydale Ravenport Saltmarsh Thornbury Umberfield Violetbay Westerlow Yarrowdale
    Amberley Birchwater Coldspring Driftwood Elmstead Foxhollow Greywater Hollowell Ironbridge Juniperhill
    """
)

JOBS = _phrases(
    """
    glass blower, baker, lighthouse keeper, violin maker, beekeeper, surgeon, cartographer, train driver, gardener,
    watchmaker, pilot, librarian, carpenter, judge, puppeteer, chemist, shepherd, translator, tailor, photographer,
    ferry captain, blacksmith, teacher, roofer, sculptor, postman, cheese maker, stargazer, stunt rider, falconer,
    locksmith, bookbinder
    """
)

ANIMALS = _phrases(
    """
    parrot, tortoise, cat, hedgehog, goat, greyhound, rabbit, ferret, pony, goldfish, canary, poodle, donkey, gecko,
    pheasant, hamster, raven, badger, chameleon, llama
    """
)

PET_NAMES = _words(
    """
    Pip Biscuit Marble Clover Domino Echo Fennel Ginger Hazel Indigo Jellybean Kiwi Lucky Mango Nutmeg Olive Pepper
    Quince Rusty Saffron Truffle Velvet Waffle Ziggy Acorn Bramble Comet Dumpling
    """
)

DISHES = _phrases(
    """
    lentil soup, mushroom pie, fried rice, fish stew, apple pancakes, goat curry, onion tart, potato dumplings,
    roast duck, tomato salad, bean chili, cheese noodles, pumpkin risotto, lemon chicken, spinach lasagna, beetroot
    soup, crab cakes, walnut bread, plum pudding, garlic prawns, cabbage rolls, honey ribs, pepper omelette, barley
    porridge, almond couscous, mango salad, leek gratin, ginger ramen
    """
)

INSTRUMENTS = _phrases(
    """
    cello, trumpet, piano, banjo, flute, accordion, violin, drums, harp, clarinet, guitar, saxophone, oboe,
    mandolin, organ, trombone, xylophone, bagpipes, lute, tuba, ukulele, zither, bassoon, harmonica
    """
)

COLOURS = _phrases(
    """
    blue, crimson, green, orange, purple, yellow, silver, turquoise, black, pink, white, copper, teal, scarlet,
    lavender, maroon, ivory, beige, magenta, olive
    """
)

MONTHS = _words("January February March April May June July August September October November December")

RIVERS = _words(
    "Alda Borrin Calder Dwyne Esker Fallow Garrow Humble Isen Jarrow Kelda Lomond Morven Nethy Orrin Pelling"
)

WARES = _phrases(
    """
    glass bells, wool blankets, smoked eel, clay pipes, apple cider, paper kites, leather boots, sea salt, wooden
    clocks, silk ribbons, honey cakes, copper kettles, pearl buttons, rye whisky, straw hats, blue pottery
    """
)

THINGS = _phrases(
    """
    silver lantern, iron crown, glass compass, wooden dragon, golden bell, stone mirror, paper moon, brass
    telescope, velvet mask, crystal key, ivory chessboard, copper globe, painted fan, clockwork swan, amber ring,
    marble lion, leather atlas, porcelain clown, feather cloak, jade flute
    """
)

ROOMS = _phrases(
    """
    library, town hall, old mill, museum, harbour office, observatory, chapel, market hall, theatre, greenhouse,
    boat house, clock tower, castle cellar, school attic, railway station, bank vault
    """
)

COMMON_WORDS = _words(
    """
    the be to of and a in that have it for not on with he as you do at this but his by from they we say her she or
    an will my one all would there their what so up out if about who get which go me when make can like time no just
    him know take people into year your good some could them see other than then now look only come its over think
    also back after use two how our work first well way even new want because any these give day most us is are was
    were been has had did does done said made went here more very much many where why again always never often under
    before between through against without within during around above below left right long short high low big small
    large little old young early late next last same different important possible problem question answer reason
    result example number point part place hand eye head face body life world country city house room door water
    fire light dark night morning school student teacher book page word line story letter paper phone computer code
    error file function value string type test check read write run start stop open close build break fix change
    move turn keep hold bring find help call ask tell feel try leave put mean let begin seem show hear play live
    believe happen provide sit stand lose pay meet include continue set learn lead understand watch follow create
    speak allow add spend grow offer remember love consider appear buy wait serve die send expect stay fall cut
    reach kill remain suggest raise pass sell require report decide pull thank please sorry sure maybe perhaps
    exactly really actually simply first second third once twice today tomorrow yesterday week month hour minute
    money price market company service product team plan project system program data model train layer memory
    network server message user name color size level order group family friend mother father brother sister child
    woman man king queen doctor engine window table garden street river mountain sea island forest bird dog horse
    tree flower bread milk apple sugar salt red brown grey warm cold hot dry wet clean quick slow strong weak heavy
    easy hard simple ready free full empty rich poor happy sad angry quiet loud true false careful patient honest
    kind brief polite clear short better best worse worst least almost enough too quite rather ing tion ment ness
    able ible less ful ous ive ant ent ism ist ity ship hood ward wise over under inter trans super micro photo
    graph scope phone meter logy cycle port form struct ject dict scrib spect vert tract press
    """
)

ONSETS = _words("b br c ch cl d dr f fl g gr h j k kl l m n p pr qu r s sh sk st t th tr v w y z")
VOWELS = _words("a e i o u ai ea ee ie oo ou")
CODAS = ("", "", "", *_words("l n r s m t ck nd rt st x"))


def fresh(pool: tuple[str, ...]) -> tuple[str, ...]:
    """The quarter of a pool that no true fact uses."""
    return pool[len(pool) - len(pool) // 4 :]


def known(pool: tuple[str, ...]) -> tuple[str, ...]:
    """The part of a pool that true facts are drawn from."""
    return pool[: len(pool) - len(pool) // 4]
