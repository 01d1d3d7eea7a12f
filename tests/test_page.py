"""The parts of an HTML page, and the published figures that stand on it."""

from siamese_jax.reporting import page, published


def test_published_figures_are_in_order_and_not_from_memory():
    values = [value for _, value, _ in published.RUNS]
    assert values == sorted(values, reverse=True)
    known = {name: value for name, value, _ in published.RUNS}
    assert published.RUNS[0][:2] == ("relational model, as claimed", 100.0)
    assert known["people"] == 95.5 and known["hierarchical BPL, from strokes"] == 95.2
    assert known["convolutional siamese network"] == 92.0 and known["1-nearest neighbour"] == 21.7
    assert not any("prototypical" in name or "RCN" in name for name in known)


def test_table_escapes_all_but_html():
    table = page.table(("a<b", ""), ["head&er", (True, ("<i>", page.bar(0.25, True)))], (1,))
    assert "a&lt;b" in table and "head&amp;er" in table and "&lt;i&gt;" in table
    assert '<i style="width:25.0%"></i>' in table and "<tr class=stressed>" in table
