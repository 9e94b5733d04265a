"""What questions are about, and the same asked in the words of others."""

import pytest

from daemon.training.engine.wording import alike, plainer, read, words

TOWN = [
    ("Where does Mira Okafor live?", "Mira Okafor lives in Brevik."),
    ("Tell me the home town of Tobias Sato.", "Tobias Sato lives in Oldhaven."),
    ("Which place does Anouk Novak call home?", "Anouk Novak lives in Millbrae."),
    ("What is Felix Thorne's job?", "Felix Thorne works as a baker."),
    ("How does Leila Haddad earn money?", "Leila Haddad works as a pilot."),
    ("Thanks!", "You are welcome."),
]


def test_a_question_is_about_what_its_answer_repeats() -> None:
    assert [one.about for one in read(TOWN)] == [
        "Mira Okafor",
        "Tobias Sato",
        "Anouk Novak",
        "Felix Thorne",
        "Leila Haddad",
        "",
    ]


def test_it_is_asked_of_another_in_the_same_words() -> None:
    mira, tobias, _, felix, *_ = read(TOWN)
    assert tobias.of(mira.about) == "Tell me the home town of Mira Okafor."
    assert felix.of(mira.about) == "What is Mira Okafor's job?"


def test_answers_of_one_kind_are_alike_whoever_they_are_about() -> None:
    mira, tobias, anouk, felix, leila, thanks = read(TOWN)
    assert alike(mira, tobias) == alike(mira, anouk) > alike(mira, felix)
    assert alike(felix, leila) > alike(felix, thanks) == 0.0


def test_what_every_question_repeats_is_not_what_it_is_about() -> None:
    pairs = [(f"The river of town{at} is called what?", f"The river of town{at} is the Alda.") for at in range(40)]
    assert {one.about for one in read(pairs)} == {f"town{at}" for at in range(40)}


def test_in_a_small_world_names_are_common_and_a_rare_little_word_is_no_subject() -> None:
    people = ["Mira Hall", "Tobias Hall", "Anouk Moor"]
    pairs = [(f"In which town does {one} live?", f"{one} lives in Brevik.") for one in people]
    pairs += [(f"Who is the rival of {one}?", f"The rival of {one} is Vera.") for one in people] * 4
    assert [one.about for one in read(pairs)] == people * 5


@pytest.mark.parametrize(
    ("question", "answer"), [("", ""), ("?", "!"), ("Thanks!", "You are welcome."), ("日本は", "東京"), ("a", "")]
)
def test_where_nothing_is_repeated_nothing_is_known(question: str, answer: str) -> None:
    (one,) = read([(question, answer)])
    assert one.about == ""
    assert one.said == frozenset(words(answer))


def test_people_type_in_haste() -> None:
    assert plainer("Where does Mira live?") == ["Where does Mira live", "where does mira live"]
    assert plainer("thanks") == []
    assert plainer("?") == []
