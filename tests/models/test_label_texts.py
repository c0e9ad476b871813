from __future__ import annotations

import pytest

from hf_fsl.models.label_texts import complete_label_texts


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("card_payment_fee_charged", "card payment fee charged"),
        ("Refund_not_showing_up", "Refund not showing up"),
        ("AnnualCrop", "annual crop"),
        ("SeaLake", "sea lake"),
        ("Forest", "Forest"),
        ("top_up by_card", "top up by card"),
        ("iPhone", "iPhone"),
        ("McDonald's", "McDonald's"),
        ("NASA", "NASA"),
        ("_", "_"),
    ],
)
def test_class_names_are_put_as_one_would_say_them(name, words):
    texts = complete_label_texts([name, "time"], {"time": "a point in time"})
    assert texts == {name: words, "time": "a point in time"}
