"""A fault that is met while others write is damage only if they changed nothing."""

import pytest

from spam.errors import StoreError
from spam.store import open_store

CHUNK = "C2/X/indptr/c/0"


def test_a_file_that_was_away_while_an_equal_part_took_its_place_is_no_damage(
    store, section, make_record, make_graph
):
    """Seen once in a race of readers: the section was replaced by one with the same counts, between two looks."""
    section.write_graph("spatial", make_graph())
    reader = open_store(store.folder).section("C2")
    store.add_section(make_record(), is_overwrite=True)  # now with the same counts, and without the graph
    (store.folder / CHUNK).unlink()
    with pytest.raises(
        StoreError, match=r"'X' of section 'C2'.*another process has changed .*same command"
    ) as told:
        reader.counts()
    assert "damaged at" in str(told.value.__cause__)
    with pytest.raises(StoreError, match=r"damaged at .*X/indptr/c/0: the file is not there"):
        open_store(store.folder).section("C2").counts()


def test_a_part_that_is_there_is_read_whatever_else_was_changed(store, section, make_record, make_graph):
    reader = open_store(store.folder).section("C2")
    section.write_graph("spatial", make_graph())
    assert (reader.counts() != make_record().counts).nnz == 0


def test_a_part_that_was_replaced_by_another_is_refused(store, section, make_record):
    reader = open_store(store.folder).section("C2")
    other = make_record()
    other.counts.data += 1
    store.add_section(other, is_overwrite=True)
    with pytest.raises(StoreError, match=r"'X' of section 'C2'.*was replaced by another process"):
        reader.counts()
