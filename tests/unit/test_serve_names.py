"""Model names."""

import pytest

from daemon.serve.names import Wanted, wanted


@pytest.mark.parametrize(
    ("model", "who"),
    [
        ("ada", Wanted("ada")),
        ("Ada.L_2-x:typescript-expert", Wanted("Ada.L_2-x", "typescript-expert")),
        ("ada:rust@12", Wanted("ada", "rust", 12)),
        ("", None),
        (".ada", None),
        ("ada:", None),
        ("ada:Rust", None),
        ("ada:rust@", None),
        ("ada:rust@0", None),
        ("ada:rust@-1", None),
        ("ada:rust@1.0", None),
        ("ada@1", None),
        ("ada:rust:go", None),
        ("../ada", None),
        ("ada\n", None),
    ],
)
def test_a_model_name_says_who_is_wanted(model: str, who: Wanted | None) -> None:
    assert wanted(model) == who
