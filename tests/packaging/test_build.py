from tests.packaging.build import LINK, ROOT, long_description

README = "a [page](docs/x.md#y), ![curve](docs/c.png), [here](#part), [there](https://example.org/z)\n"


def test_a_page_away_from_its_repository_has_no_relative_link() -> None:
    assert long_description(README, "", "v1") == "a page, , here, [there](https://example.org/z)\n"
    assert long_description(README, "https://host/o/n", "v1") == (
        "a [page](https://host/o/n/blob/v1/docs/x.md#y), ![curve](https://host/o/n/raw/v1/docs/c.png), "
        "[here](https://host/o/n/blob/v1/README.md#part), [there](https://example.org/z)\n"
    )
    page = long_description((ROOT / "README.md").read_text(), "", "v1")
    assert all(link["target"].startswith("https://") for link in LINK.finditer(page))
