from trimtab.lens.words import fit_words, read_words, words


def test_words_counts_punctuation_runs_and_ignores_case() -> None:
    assert words("Arr, ARR!! 12") == {"arr": 2, ",": 1, "!!": 1, "12": 1}


def test_the_fitted_words_tell_unseen_texts_apart() -> None:
    pirate = [f"arr, the answer be {n}, matey" for n in range(40)]
    plain = [f"the answer is {n}" for n in range(40)]
    weights = fit_words(pirate, plain)
    assert weights["matey"] > 0 > weights["is"]
    assert read_words(weights, "arr, it be seven") > read_words(weights, "it is seven")
    assert read_words(weights, "") == 0.0
