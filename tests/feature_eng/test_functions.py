from datetime import datetime, timezone

import numpy as np
import pytest

from feature_eng import functions
from feature_eng.inputs import NULL_INT
from feature_eng.keys import int_keys, string_keys


def ms(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=timezone.utc).timestamp() * 1000)  # type: ignore[misc]


def test_a_vocabulary_tells_null_unseen_and_listed_values_apart() -> None:
    listed = int_keys(np.array([10, 20, 30]))
    order = np.argsort(listed)
    ids = np.array([4, 5, 3], dtype=np.int32)[order]
    keys = int_keys(np.array([20, 99, NULL_INT, 30, 10]))
    assert functions.vocabulary_ids(keys, listed[order], ids).tolist() == [5, 2, 1, 3, 4]


def test_an_empty_vocabulary_knows_nothing_but_nulls() -> None:
    nothing = np.array([], dtype=np.uint64)
    keys = string_keys(["a", ""])
    assert functions.vocabulary_ids(keys, nothing, np.array([], dtype=np.int32)).tolist() == [2, 1]
    assert functions.looked_up(keys, nothing, np.array([], dtype=np.float32), 0.5).tolist() == [0.5, 0.5]


def test_an_unknown_key_is_looked_up_as_the_default() -> None:
    listed = np.sort(int_keys(np.arange(4)))
    values = np.arange(4, dtype=np.float32)
    found = functions.looked_up(np.append(listed[[2, 0]], int_keys(np.array([9]))), listed, values, -1.0)
    assert found.tolist() == [2.0, 0.0, -1.0]


def test_each_key_may_have_a_default_of_its_own() -> None:
    listed = int_keys(np.array([1]))
    keys, defaults = int_keys(np.array([1, 2, 3])), np.array([7.0, 8.0, 9.0], dtype=np.float32)
    assert functions.looked_up(keys, listed, np.array([0.5], dtype=np.float32), defaults).tolist() == [0.5, 8.0, 9.0]


@pytest.mark.parametrize(("keep_last", "kept"), [(True, [[2, 3], [4, 0], [0, 0]]), (False, [[1, 2], [4, 0], [0, 0]])])
def test_lists_are_padded_and_cut_to_their_last_or_first_values(keep_last: bool, kept: list[list[int]]) -> None:
    ids, offsets = np.array([1, 2, 3, 4], dtype=np.int32), np.array([0, 3, 4, 4])
    assert functions.padded(ids, offsets, 2, keep_last=keep_last).tolist() == kept


def test_words_are_lower_cased_split_at_white_space_and_hashed() -> None:
    words = functions.bucket_ids(string_keys(["red", "schuhe", "größe"]), 1000).tolist()
    texts = ["Red  SCHUHE\tgröße more", "", "größe".encode()]
    assert functions.word_ids(texts, 1000, 3).tolist() == [words, [0, 0, 0], [words[2], 0, 0]]


def test_buckets_run_from_1_to_their_number() -> None:
    ids = functions.bucket_ids(int_keys(np.arange(10_000)), 7)
    assert sorted(set(ids.tolist())) == [1, 2, 3, 4, 5, 6, 7]


def test_hours_and_weekdays_are_those_of_utc() -> None:
    moments = np.array([0, ms(2026, 11, 24, 13, 59), ms(1969, 12, 31, 23), NULL_INT])
    assert functions.hour_ids(moments).tolist() == [1, 14, 24, 25]
    assert functions.weekday_ids(moments).tolist() == [4, 2, 3, 8]  # Thursday, Tuesday, Wednesday, null


def test_the_first_and_last_moments_that_are_no_null_have_an_hour_and_a_weekday() -> None:
    ends = np.array([NULL_INT + 1, 2**63 - 1])
    days = [moment // 86_400_000 for moment in ends.tolist()]
    assert functions.hour_ids(ends).tolist() == [m // 3_600_000 % 24 + 1 for m in ends.tolist()]
    assert functions.weekday_ids(ends).tolist() == [(day + 3) % 7 + 1 for day in days]


def test_a_logarithm_is_of_one_more_than_a_number() -> None:
    assert functions.logged(np.float32([0, np.e - 1, np.nan])).tolist() == pytest.approx([0, 1, np.nan], nan_ok=True)


def test_an_age_is_in_days_and_unknown_where_a_moment_is() -> None:
    later = np.array([ms(2026, 3, 2, 12), ms(2026, 3, 2), NULL_INT])
    earlier = np.array([ms(2026, 3, 1), ms(2026, 3, 3), 0])
    ages = functions.age_days(later, earlier)
    assert ages[:2].tolist() == [1.5, -1.0]
    assert np.isnan(ages[2])
