"""Files of class names in every form that people have them in."""

import pytest

from alexnet.interchange.class_files import read_classes


@pytest.mark.parametrize(
    "content",
    [
        "cat\n dog \n\n",
        "\ufeffcat\ndog",
        '["cat", "dog"]',
        '{"1": ["dog", "a dog"], "0": ["cat", "a cat"]}',
        '{"1": "dog", "0": "cat"}',
        '{"dog": 1, "cat": 0}',
    ],
)
def test_class_names_of_a_file(content, tmp_path):
    (tmp_path / "names").write_text(content, encoding="utf-8")
    assert read_classes(tmp_path / "names") == ("cat", "dog")


def test_imagenet_classes_are_named_by_wordnet_id(tmp_path):
    numbers = ("n01440764", "n01443537")
    (tmp_path / "synset_words.txt").write_text("n01440764 tench, Tinca tinca\nn01443537 goldfish\n", encoding="utf-8")
    assert read_classes(tmp_path / "synset_words.txt") == numbers
    (tmp_path / "index.json").write_text('{"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}')
    assert read_classes(tmp_path / "index.json") == numbers


@pytest.mark.parametrize(
    "content, message",
    [
        (b"\n", "has no usable class names"),
        (b'[{"a": 1}, {"b": 2}]', "has no usable class names"),
        (b'"abc"', "has no usable class names"),
        (b"[[], []]", "has no usable class names"),
        (b'{"a": "x", "b": "y"}', "has no usable class names"),
        (b'{"a": 1, "b": 1}', "has no usable class names"),
        (b"cat\ndog\ncat\n", "must be distinct; \\S*names has 'cat' twice, as classes 0 and 2: rename one"),
        (b"caf\xe9\n", "UTF-8"),
    ],
)
def test_a_file_without_class_names_is_refused(content, message, tmp_path):
    (tmp_path / "names").write_bytes(content)
    with pytest.raises(ValueError, match=f"{message}"):
        read_classes(tmp_path / "names")


@pytest.mark.parametrize(
    "content",
    [
        "2 cow\n0 cat\n1 dog\n",
        "cow 2\ncat 0\ndog 1\n",
        "1: cat\n2: dog\n3: cow",
        "{0: 'cat',\n 1: 'dog', 2: 'cow'}",
        "['cat', 'dog', 'cow']",
        "id,name\n0,cat\n1,dog\n2,cow\n",
        "class_name\tclass_id\ncow\t2\ncat\t0\ndog\t1\n",
        "name\ncat\ndog\ncow",
        "nc: 3\nnames:\n  0: cat\n  1: dog\n  2: cow\n",
        "names:\n- cat\n- dog\n- cow\nnc: 3",
        "names: [cat, dog, cow]",
        '{"names": ["cat", "dog", "cow"]}',
        '[{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "cow"}]',
    ],
)
def test_files_of_class_names(content, tmp_path):
    (tmp_path / "names").write_text(content, encoding="utf-8")
    assert read_classes(tmp_path / "names") == ("cat", "dog", "cow")


def test_numbers_in_names_stay_and_wrong_indices_are_told(tmp_path):
    path = tmp_path / "names"
    path.write_text("Acura Integra 2001\nBMW M3 2012\nFord GT 2006\n")
    assert read_classes(path) == ("Acura Integra 2001", "BMW M3 2012", "Ford GT 2006")
    for content, message in (
        ("0 cat\n2 dog\n", "the indices of 2 classes must be 0 to 1, got 0, 2"),
        ("0 crane\n1 crane\n2 cow\n", "has 'crane' twice, as classes 0 and 1: rename one"),
        ("{0: " * 3000, "no usable class names"),
        ("[" * 100_000, "nested too deeply"),
        ("id,name\n0,cat\n0,dog\n", "must be 0 to 1, got 0, 0"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_classes(path)
