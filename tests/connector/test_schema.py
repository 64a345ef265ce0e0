from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector import schema
from connector.errors import InvalidInputError, SchemaMismatchError
from connector.vector_index import EXACT


def described(layout: schema.Layout, **properties: str) -> dict:
    fields = []
    for field in layout.fields:
        params = {} if not field.size else {"dim" if field is layout.vector else "max_length": field.size}
        fields.append({"name": field.name, "type": field.type, "params": params})
    own = schema.properties("xfeat@1", EXACT)
    return {"collection_name": layout.name, "fields": fields, "properties": own | properties}


LAYOUTS = [
    schema.images("n", 8, EXACT),
    schema.features("n"),
    schema.blobs("n", tenants=True),
]


@given(st.text())
def test_keys_can_stand_in_any_expression(text: str) -> None:
    assert re.fullmatch("[0-9a-f]{32}", schema.image_key(text))
    assert schema.image_key(text) != schema.blob_key(text)
    assert re.fullmatch("[0-9a-f]{32}", schema.image_key(text, tenant=text))


def test_the_photo_of_another_tenant_is_another_photo() -> None:
    owners = ["", "a", "b", "a\0"]
    assert len({schema.image_key(name, owner) for name in ("x", "ax") for owner in owners}) == 8


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_own_schema_passes(layout: schema.Layout) -> None:
    schema.check_owner(described(layout))
    schema.check_fields(described(layout), layout)


def test_a_collection_of_others_is_named() -> None:
    foreign = described(LAYOUTS[0])
    del foreign["properties"][schema.VERSION_PROPERTY]
    with pytest.raises(SchemaMismatchError, match="'n' exists and was not made by Landbridge"):
        schema.check_owner(foreign)


@pytest.mark.parametrize(
    ("version", "way_out"),
    [("1", r"up to date \(landbridge migrate,"), ("7", "install the version that made it")],
)
def test_another_version_is_named(version: str, way_out: str) -> None:
    with pytest.raises(SchemaMismatchError, match=f"'n' has schema version {version}.* reads 2: .*{way_out}"):
        schema.check_owner(described(LAYOUTS[0], **{schema.VERSION_PROPERTY: version}))


@pytest.mark.parametrize("change", ["missing", "extra", "type", "size"])
def test_altered_fields_are_named(change: str) -> None:
    altered = described(LAYOUTS[0])
    if change == "missing":
        altered["fields"] = [field for field in altered["fields"] if field["name"] != "path"]
    elif change == "extra":
        altered["fields"].append({"name": "path2", "type": 21, "params": {"max_length": 8}})
    elif change == "type":
        altered["fields"][2]["type"] = 5
    else:
        altered["fields"][2]["params"]["max_length"] = 64
    with pytest.raises(SchemaMismatchError, match=r"its fields path2? are not"):
        schema.check_fields(altered, LAYOUTS[0])


@pytest.mark.parametrize("name", ["", "1st", "a-b", "a.b", "../x", "é", "a" * 201, "a\n"])
def test_names_that_milvus_would_refuse(name: str) -> None:
    with pytest.raises(InvalidInputError, match="cannot name a collection"):
        schema.check_name(name)
    schema.check_name("_Photos_2")


def test_a_path_fits_the_record_of_a_chunk_even_when_escaped() -> None:
    assert 6 * (schema.PATH_BYTES + schema.IMAGE_ID_BYTES) + 1000 < schema.TEXT_BYTES
