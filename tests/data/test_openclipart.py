import os

import numpy as np
import pytest
from PIL import Image, ImageDraw

from trainer.data.cache import open_cache
from trainer.data.openclipart import OpenClipart, describe
from trainer.data.openclipart_names import clip_art_names, concept_of
from trainer.errors import UserError

DOMAIN = "http://web.resource.org/cc/PublicDomain"
SVG = """<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10">
  <metadata>
    <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
      <cc:Work rdf:about="">
        <dc:title>{title}</dc:title>
        <dc:subject><rdf:Bag>{keywords}</rdf:Bag></dc:subject>
        <dc:publisher><cc:Agent><dc:title>Open Clip Art Library</dc:title></cc:Agent></dc:publisher>
        <dc:creator><cc:Agent><dc:title>{creator}</dc:title></cc:Agent></dc:creator>
        <cc:license rdf:resource="{licence}"/>
      </cc:Work>
    </rdf:RDF>
  </metadata>
  {drawing}
</svg>
"""


@pytest.fixture
def package(tmp_path):
    """add(key, title, keywords, ...) puts one picture into a package: a coloured rectangle on nothing."""
    count = 0

    def add(key, title, *keywords, creator="A. Painter", licence=DOMAIN, drawing=None, colour=None, size=(40, 20)):
        nonlocal count
        count += 1
        png, svg = tmp_path / "png" / key, tmp_path / "svg" / f"{key[:-4]}.svg"
        for file in (png, svg):
            file.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGBA", size)
        box = (size[0] // 4, size[1] // 4, size[0] * 3 // 4 - 1, size[1] * 3 // 4 - 1)
        ImageDraw.Draw(image).rectangle(box, fill=colour or (200, count, 0, 255))
        image.save(png)
        bag = "".join(f"<rdf:li>{keyword}</rdf:li>" for keyword in keywords)
        drawing = drawing or f'<path d="M {count}"/>'
        svg.write_text(SVG.format(title=title, keywords=bag, creator=creator, licence=licence, drawing=drawing))
        return svg

    add("animals/bear.png", "Brown Bear", "hash", "", "mammal", "HASH(0x85e63e0)", "animal")
    add.root = tmp_path
    return add


def keys(package):
    return [item.key for item in OpenClipart(str(package.root)).items()]


def test_titles_and_keywords_are_captions(package):
    (item,) = OpenClipart(str(package.root)).items()
    assert item.key == "animals/bear.png"
    assert item.captions == ("brown bear", "brown bear, mammal, animal")
    assert item.concept == "bear"
    assert item.attributes == {"category": "animals", "creator": "A. Painter"}


def test_what_is_left_out(package):
    root = package.root
    package("shapes/stars/star_07.png", "gramastar", "stars")
    package("special/patterns/dots.png", "dots pattern")
    package("computer/icons/flat-theme/action/stop.png", "a stop sign")
    package("food/gpl.png", "an apple", licence="http://creativecommons.org/licenses/GPL/2.0/")
    package("food/unlicensed.png", "a pear", licence="")
    package("food/untitled.png", "Untitled")
    package("food/lost.png", "a plum", drawing='<image width="3" xlink:href="/home/somebody/plum.png"/>')
    package("food/copy.png", "another bear", drawing='<path d="M 1"/>')
    (root / "png/food/same.png").write_bytes((root / "png/animals/bear.png").read_bytes())
    (root / "svg/food/same.svg").write_text((root / "svg/animals/bear.svg").read_text().replace("M 1", "M 7"))
    os.symlink(root / "png/animals/bear.png", root / "png/food/link.png")
    os.symlink(root / "svg/animals/bear.svg", root / "svg/food/link.svg")
    (root / "png/food/alone.png").write_bytes((root / "png/food/gpl.png").read_bytes())
    package("food/bread.png", "bread", drawing='<image xlink:href="data:image/png;base64,AA=="/>')
    assert keys(package) == ["animals/bear.png", "food/bread.png"]


def test_a_picture_fills_a_white_square_whole(package):
    package("wide.png", "a wide rectangle", size=(400, 40), colour=(0, 0, 255, 255))
    wide = np.asarray({item.key: item for item in OpenClipart(str(package.root)).items()}["wide.png"].load(64))
    assert wide.shape == (64, 64, 3)
    rows, columns = np.nonzero((wide < 128).any(-1))
    assert 57 <= np.ptp(columns) + 1 <= 63 and 4 <= np.ptp(rows) + 1 <= 8
    assert abs(columns.mean() - 31.5) < 1 and abs(rows.mean() - 31.5) < 1
    assert (wide[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()


def test_white_on_white_is_skipped_and_told(package, tmp_path, capsys):
    package("white.png", "white icon of a house", colour="white")
    cache = open_cache(OpenClipart(str(package.root)), 16, tmp_path / "cache")
    assert len(cache.images) == 1
    assert "white.png\tValueError: nothing is drawn" in (cache.folder / "skipped.txt").read_text()


@pytest.mark.parametrize(
    "start",
    [
        '<!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>',
        '<!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/hostname">]>',
    ],
)
def test_no_entity_is_expanded_or_fetched(package, start):
    svg = package("animals/bomb.png", "TITLE")
    text = svg.read_text().replace("?>", f"?>{start}", 1)
    for entity in ("&b;", "&a;"):
        svg.write_text(text.replace("TITLE", entity))
        assert describe(str(svg)) is None
    within = text.replace("<metadata>", f"<metadata>{start}")
    svg.write_text(within.replace("TITLE", "&a;"))
    assert describe(str(svg)) is None
    svg.write_text(text.replace("TITLE", "a bomb"))  # a DTD alone, as drawing programs write it, is not looked at
    assert describe(str(svg)).title == "a bomb"


@pytest.mark.parametrize("text", ["", "<svg/>", "<metadata>", "</metadata><metadata>", "<metadata><a></metadata>"])
def test_what_is_no_metadata_is_left_out(package, text):
    package("animals/other.png", "a whale").write_text(text)
    assert keys(package) == ["animals/bear.png"]


@pytest.mark.parametrize(
    ("file", "title", "keywords", "creator", "name"),
    [
        ("food/apple_wedge_bw.png", "R16 sibmission", (), "Gerald G.", "apple wedge, black and white"),
        ("computer/satellite_hub_zazou.png", "Sallite", (), "zazou (z@yahoo.es)", "satellite hub"),
        ("recreation/games/cards/white/white_d_q.png", "card", (), "Nicu Buculei", "queen of diamonds, playing card"),
        ("animals/orso_02.png", "Orso", (), "Architetto Francesco Rollandin", "bear"),
        ("animals/rana.png", "Rana02", (), "Architetto Francesco Rollandin", "frog"),
        ("animals/x.png", "Stambecco sconosciuto", (), "Architetto Francesco Rollandin", None),
        ("signs/sweden.png", " sweden", ("Flags",), "", "flag of sweden"),
        ("a/flags/us.png", "Clipart by Steve Hall - United States - Ohio", (), "", "flag of united states, ohio"),
        ("a/flags/fox.png", "maritime signal flag foxtrot", (), "", "maritime signal flag foxtrot"),
        ("food/cone.png", "Ice Cream Cone (1 Scoop)", (), "", "ice cream cone (1 scoop)"),
        ("food/fries.png", "Fries (B &amp; W)", (), "", "fries, black and white"),
        ("tools/car.png", "RedCar_03", (), "", "red car"),
        ("tools/tank.png", "M1 Abrams main battle tank", (), "", "m1 abrams main battle tank"),
        ("plants/tree_02.png", "tree - RPG map elements", (), "", "tree, map symbol"),
        ("a/70a001.png", "gold-theme", ("icon",), "", None),
        ("a/b.png", "07", (), "", None),
    ],
)  # fmt: skip
def test_names_say_what_is_shown(file, title, keywords, creator, name):
    assert (clip_art_names(file, title, keywords, creator) or (None,))[0] == name


def test_variants_share_a_concept():
    names = ("arrow up blue", "arrow up red", "arrow up", "arrow up, black and white", "arrow up (green)", "arrow up 3")
    assert {concept_of(name) for name in names} == {"arrow up"}
    assert concept_of("orange") == "orange"
    assert concept_of("flag of brazil") == concept_of("brazil flag")


def test_the_fingerprint_follows_the_files_not_their_place(package, tmp_path):
    before = OpenClipart(str(package.root)).fingerprint()
    package("food/bread.png", "bread")
    assert OpenClipart(str(package.root)).fingerprint() != before


def test_a_missing_package_is_named_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.data.openclipart._INSTALLED", str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="apt-get install openclipart-png openclipart-svg"):
        OpenClipart()
    with pytest.raises(UserError, match=f"png/ and svg/ in data.source.path={tmp_path}: apt-get"):
        OpenClipart(str(tmp_path))
