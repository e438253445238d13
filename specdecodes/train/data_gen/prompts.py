"""Prompts that a target answers, so that a head learns from the target's own words.

Made from sentences and subjects that are written here; no two are the same. They ask for what the demo model was
taught: stories, questions, sums, small programs, advice, roles to play.
"""

from __future__ import annotations

import random

from specdecodes.train.corpora import ASK_LIST, ASK_MORE, ASK_SHORT, ASK_TOPIC

HEROES = (
    *("a fox", "a king", "a little girl", "an old sailor", "a poor woodcutter", "a giant", "a princess"),
    *("two brothers", "a clever cat", "a wolf", "a miller", "a witch", "a robin", "a shepherd", "a tailor"),
    *("a mouse", "a dragon", "a soldier", "a bear", "a fisherman", "a horse", "a lonely boy", "a queen", "a lion"),
    *("a crow", "a baker", "a merchant", "a frog", "a farmer", "a goose", "a rabbit", "a beggar", "a prince"),
    "a donkey",
)
PLACES = (
    *("the forest", "a castle", "the sea", "a small village", "a garden", "the mountains", "a snowy night"),
    *("an island", "the river", "a market", "a dark cave", "the moon", "an old house", "a ship", "a great city"),
)
SUBJECTS = (
    *("artificial intelligence", "exercise", "reading", "a healthy diet", "the weather", "music", "recycling"),
    *("sleep", "climate change", "teamwork", "learning a language", "the internet", "patience", "good manners"),
    *("cooking", "saving money", "travelling", "a good teacher", "solar energy", "friendship", "sports", "honesty"),
    *("history", "social media", "writing", "mathematics", "gardening", "public transport", "art", "clean water"),
    *("kindness", "computers", "working from home", "a first job", "time management", "the ocean", "stress"),
    *("robots", "maps"),
)
ASK_SUBJECT = (
    *("What are the advantages of {}?", "Explain the importance of {}.", "Give three tips about {}.", "What is {}?"),
    *("Write a short paragraph about {}.", "Why does {} matter to people?", "List some facts about {}."),
    *("Write a poem about {}.", "How has {} changed over time?", "Suggest a title for an article about {}."),
)
ASK_HERO = ("Describe {} in {}.", "Write a story about {} and {}.", "What did {} find in {}?", "How did {} leave {}?")
ROLES = (
    *("a famous explorer", "a tour guide", "a doctor", "a shop assistant", "a detective", "a captain", "a scientist"),
    *("a news reporter", "a chef", "a librarian", "a gardener", "a judge", "an inventor", "a pilot", "a teacher"),
)
ASK_ROLE = (
    *("Imagine you are {}. Describe your day.", "You are {}. What would you say to a visitor?"),
    *("Pretend that you are {} and tell me about your work.", "As {}, give advice to a young person."),
)
TASKS = (
    *("adds two numbers", "reverses a string", "finds the largest number in a list", "counts the words in a text"),
    *("checks whether a number is prime", "sorts a list", "prints the numbers from 1 to 10", "finds the average"),
    *("removes duplicates from a list", "checks for a palindrome", "computes a factorial", "counts the vowels"),
    *("converts Celsius to Fahrenheit", "merges two lists", "prints a multiplication table", "reads a file"),
)
LANGUAGES = ("Python", "C++", "Java", "JavaScript")
ASK_TASK = ("Write a {} program that {}.", "Create a function in {} that {}.", "Show me {} code which {}.")
NAMES = (*("Tom", "Anna", "Maria", "James", "Lily", "Ben", "Sara", "Peter", "Emma", "Jack", "Rosa", "David"),)
THINGS = (*("apples", "books", "marbles", "pencils", "cookies", "stamps", "eggs", "flowers", "coins", "cards"),)
ASK_SUM = (
    "{name} has {a} {things} and buys {b} more. How many {things} does {name} have?",
    "{name} had {a} {things} and gave {c} of them to a friend. How many are left?",
    "A box holds {c} {things}. How many {things} are in {b} boxes?",
    "{name} reads {a} pages every day. How many pages is that in {c} days?",
    "{name} earns ${a} an hour and works {c} hours a day. How much does {name} earn in {b} days?",
    "{things} cost ${c} each. How much do {a} {things} cost {name}, who pays half?",
)


def prompts(count: int, seed: int = 0) -> list[tuple[str, ...]]:
    """`count` different openings of a chat: the user's turns, mostly one, the others after the first answer."""
    dice = random.Random(seed)
    found: dict[str, tuple[str, ...]] = {}
    kinds = (_story, _hero, _subject, _role, _task, _sum)
    while len(found) < count:
        kind = dice.choices(kinds, (2, 3, 4, 1, 2, 4))[0]
        first = kind(dice)
        follow = {_story: ASK_MORE, _hero: ASK_MORE, _subject: ASK_SHORT + ASK_LIST}.get(kind)
        found[first] = (first, dice.choice(follow)) if follow and dice.random() < 0.2 else (first,)
        if len(found) == _MOST:
            break
    return list(found.values())


_MOST = 4000  # of the few thousand that there are


def _story(dice: random.Random) -> str:
    return dice.choice(ASK_TOPIC).format(dice.choice(HEROES))


def _hero(dice: random.Random) -> str:
    return dice.choice(ASK_HERO).format(dice.choice(HEROES), dice.choice(PLACES))


def _subject(dice: random.Random) -> str:
    return dice.choice(ASK_SUBJECT).format(dice.choice(SUBJECTS))


def _role(dice: random.Random) -> str:
    return dice.choice(ASK_ROLE).format(dice.choice(ROLES))


def _task(dice: random.Random) -> str:
    return dice.choice(ASK_TASK).format(dice.choice(LANGUAGES), dice.choice(TASKS))


def _sum(dice: random.Random) -> str:
    a, b, c = dice.randint(8, 60), dice.randint(2, 12), dice.randint(2, 7)
    text = dice.choice(ASK_SUM).format(name=dice.choice(NAMES), things=dice.choice(THINGS), a=a, b=b, c=c)
    return text[0].upper() + text[1:]
