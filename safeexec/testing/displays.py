"""Rich displays: pictures, markup, plots."""

from __future__ import annotations

from safeexec.testing.base import Base


class Displays(Base):
    def test_value_with_rich_forms_is_displayed(self) -> None:
        code = """
class Rich:
    def _repr_html_(self):
        return "<b>bold</b>"
    def _repr_png_(self):
        return b"\\x89PNG..."
    def _repr_markdown_(self):
        return "**bold**"
    def _repr_svg_(self):
        return "<svg/>"
Rich()
"""
        result = self.run(code)
        assert result.ok and len(result.displays) == 1, result.error
        shown = result.displays[0]
        assert shown["text/html"] == "<b>bold</b>" and shown["image/png"] == b"\x89PNG..."
        assert shown["text/markdown"] == "**bold**" and shown["image/svg+xml"] == "<svg/>"
        assert "text/plain" not in shown

    def test_display_shows_anything(self) -> None:
        result = self.run("display(1, [2])\ndisplay('x')\n3")
        assert result.value == 3
        assert [d["text/plain"] for d in result.displays] == ["1", "[2]", "'x'"]

    def test_failing_display_is_no_display(self) -> None:
        code = "class Bad:\n    def _repr_html_(self):\n        raise ValueError\nBad()"
        result = self.run(code)
        assert result.ok and result.displays == ()

    def test_giant_display_is_dropped(self) -> None:
        code = "class Big:\n    def _repr_html_(self):\n        return 'x' * 300_000\ndisplay(Big())\ndisplay('small')"
        result = self.run(code, value=100_000)
        assert result.ok and result.truncated
        assert sum(len(data) for d in result.displays for data in d.data.values()) <= 100_000

    def test_number_of_displays_is_capped(self) -> None:
        result = self.run("for i in range(500):\n    display(i)")
        assert result.ok and result.truncated and 1 <= len(result.displays) <= 100

    def test_figure_is_displayed(self) -> None:
        policy = self.needs_module("matplotlib")
        limits = self.limits(time=60).limits
        with self.session(policy=policy.replace(limits=limits)) as session:
            result = session.run("import matplotlib.pyplot as plt\n_ = plt.plot([1, 2, 3])\nNone")
            assert result.ok, result.error
            (shown,) = result.displays
            assert isinstance(shown["image/png"], bytes) and shown["image/png"].startswith(b"\x89PNG")
            assert session.run("plt.get_fignums()").value == []
