"""The damage table, small: nothing that harms goes unnoticed by ours, and nothing harmless is reported."""

from turbomim.benchmarks.faults.damage_tars import READERS, VERIFY, run

START = "ours, at start"
# equal size and an older time: opening trusts these, and says so; `verify` hashes
TRUSTED = "the same, with the old time"


def test_no_damage_is_silent() -> None:
    ours = {name: reader for name, reader in READERS.items() if name.startswith("ours")}
    table = {damage: outcomes for damage, outcomes in run(8, {**ours, "tarfile": READERS["tarfile"]})}
    assert len(table) >= 17
    for damage, outcomes in table.items():
        assert outcomes[VERIFY].noticed == damage.harms, damage.name
        if damage.name != TRUSTED:
            assert outcomes[START].noticed == damage.harms, damage.name
        if not damage.harms:
            assert {str(outcomes[name]) for name in ours} == {"all right"}, damage.name
    # the damage is real: others lose samples over it and say nothing
    assert sum(outcomes["tarfile"].lost > 0 for outcomes in table.values()) >= 2
    assert sum(outcomes["tarfile"].wrong > 0 for outcomes in table.values()) == 2
