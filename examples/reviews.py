"""A pipeline over product reviews: tokens, key words by TF-IDF, mood by a word list, pairs of words."""

import json
import math
import re
import statistics
from collections import Counter, defaultdict
from itertools import pairwise

STOP = set(
    """a about after and are be better bought could day days for from gift i i'm is it it's kind last month my not of
    one only really says second so the this use was we who""".split()
)
GOOD = frozenset("great love excellent sturdy quiet fast reliable perfect happy easy".split())
BAD = frozenset("broken noisy terrible slow cheap leaks disappointed refund awful flimsy".split())


# %% Read and tokenise, one review at a time.
def read(path):
    with open(path, encoding="utf-8") as f:
        for line in f:
            yield json.loads(line)


def tokens(text):
    return re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())


reviews = [{**review, "tokens": tokens(review["text"])} for review in read("reviews.jsonl")]
vocabulary = Counter(word for review in reviews for word in review["tokens"])
print(f"{len(reviews)} reviews, {vocabulary.total():,} words, {len(vocabulary)} different")
len(reviews), vocabulary.total(), len(vocabulary)

# %% Key words of each product: frequent there, rare elsewhere.
by_product = defaultdict(Counter)
for review in reviews:
    by_product[review["product"]].update(w for w in review["tokens"] if w not in STOP)


def tf_idf(word, product):
    tf = by_product[product][word] / by_product[product].total()
    df = sum(word in counts for counts in by_product.values())
    return tf * math.log(len(by_product) / df)


keywords = {
    product: sorted(counts, key=lambda word: (-tf_idf(word, product), word))[:5]
    for product, counts in by_product.items()
}
for product, words in sorted(keywords.items()):
    print(f"{product:17}", ", ".join(words))
keywords


# %% Mood: does the word list agree with the stars?
def mood(words):
    score = sum((w in GOOD) - (w in BAD) for w in words)
    match score:
        case 0:
            return score, "neutral"
        case n if n > 0:
            return score, "good"
        case _:
            return score, "bad"


scores = [mood(review["tokens"]) for review in reviews]
agreement = statistics.correlation([s for s, _ in scores], [review["stars"] for review in reviews])
moods = Counter(label for _, label in scores)
print(f"\nmood: {dict(moods)}; correlation with the stars {agreement:.2f}")
stars = {}
for product in sorted(by_product):
    given = [review["stars"] for review in reviews if review["product"] == product]
    stars[product] = (len(given), round(statistics.fmean(given), 3))
    print(f"{product:17} {stars[product][1]:.2f} stars of {len(given)}")
{"moods": dict(moods), "correlation": agreement, "stars": stars}

# %% Pairs of words that belong together.
pairs = Counter(
    (first, second) for review in reviews for first, second in pairwise(review["tokens"]) if not {first, second} & STOP
)
for (first, second), count in pairs.most_common(3):
    print(f"{count:4d} {first} {second}")
pairs.most_common(3)
