"Likely wrong answers of tools/tiny: each is refused by its check."

# %% tiny.1 each word is counted once
check_first_merge(lambda words: first_merge(Counter(dict.fromkeys(words, 1))))

# %% tiny.1 the beginning of a word alone
def beginnings(words):
    pairs = Counter()
    for word, n in words.items(): pairs[tuple(word[:2])] += n
    return pairs.most_common(1)[0][0]
check_first_merge(beginnings)
